"""Reads and checks recipe files and turns them into stages, without importing heavy libraries."""

from hfpipe.recipe.load import Recipe, check_facts, load_recipe
from hfpipe.recipe.schema import make_recipe_schema

__all__ = ["Recipe", "check_facts", "load_recipe", "make_recipe_schema"]
