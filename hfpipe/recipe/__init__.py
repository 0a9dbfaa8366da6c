"""A recipe file read, checked and turned into stages, without loading any heavy library."""

from hfpipe.recipe.load import Recipe, check_facts, load_recipe
from hfpipe.recipe.schema import recipe_schema

__all__ = ["Recipe", "check_facts", "load_recipe", "recipe_schema"]
