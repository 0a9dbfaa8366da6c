"""From raw text to an evaluated model in one recipe file."""

from __future__ import annotations

from hfpipe import metrics
from hfpipe.api import (
    adopt,
    compare,
    copy_recipe,
    doctor,
    explain,
    list_recipes,
    load,
    open,  # noqa: A004 - hfpipe.open reads well
    plan,
    predict,
    replay,
    run,
    schema,
    show,
    sizes,
    status,
    verify,
)
from hfpipe.errors import DataError, HfpipeError, Problem, RecipeError, StageError
from hfpipe.report import DataFacts
from hfpipe.runner import Launch
from hfpipe.runs.run import Run
from hfpipe.task import Task
from hfpipe.types import Counted

__all__ = [
    "Counted",
    "DataError",
    "DataFacts",
    "HfpipeError",
    "Launch",
    "Problem",
    "RecipeError",
    "Run",
    "StageError",
    "Task",
    "adopt",
    "compare",
    "copy_recipe",
    "doctor",
    "explain",
    "list_recipes",
    "load",
    "metrics",
    "open",
    "plan",
    "predict",
    "replay",
    "run",
    "schema",
    "show",
    "sizes",
    "status",
    "verify",
]
