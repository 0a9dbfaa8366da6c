"""`training:` of a recipe: arguments, defaults and what they need."""
