"""What a recipe refers to: paths, user code and names on the Hugging Face Hub."""
