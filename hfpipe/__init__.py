"""From raw text to an evaluated model in one recipe file."""

from __future__ import annotations

from hfpipe import metrics
from hfpipe.api import compare, load, open, plan, predict, run, schema, sizes  # noqa: A004 - hfpipe.open reads well
from hfpipe.errors import DataError, HfpipeError, RecipeError, StageError
from hfpipe.results import Run
from hfpipe.runner import Launch

__all__ = [
    "DataError",
    "HfpipeError",
    "Launch",
    "RecipeError",
    "Run",
    "StageError",
    "compare",
    "load",
    "metrics",
    "open",
    "plan",
    "predict",
    "run",
    "schema",
    "sizes",
]
