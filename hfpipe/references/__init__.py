"""References in a recipe: paths, user code and Hugging Face Hub ids."""
