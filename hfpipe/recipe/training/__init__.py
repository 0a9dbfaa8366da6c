"""`training:` of a recipe: arguments, defaults and required packages."""
