"""From raw text to an evaluated model in one recipe file."""

from __future__ import annotations

from hfpipe.api import Launch, load, open, plan, run, schema
from hfpipe.errors import DataError, HfpipeError, RecipeError, StageError
from hfpipe.results import Run

__all__ = [
    "DataError",
    "HfpipeError",
    "Launch",
    "RecipeError",
    "Run",
    "StageError",
    "load",
    "open",
    "plan",
    "run",
    "schema",
]
