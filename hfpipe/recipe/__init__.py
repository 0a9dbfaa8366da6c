"""A recipe file read, checked and turned into stages, without loading any heavy library."""

from hfpipe.recipe.load import Recipe, check_facts, load
from hfpipe.recipe.schema import schema

__all__ = ["Recipe", "check_facts", "load", "schema"]
