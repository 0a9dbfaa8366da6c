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
from hfpipe.inference.explained_rows import explain_run
from hfpipe.inference.serving import demo
from hfpipe.publishing.upload import push
from hfpipe.report import DataFacts
from hfpipe.runner import Launch
from hfpipe.runs.rerun import rerun
from hfpipe.runs.run import Run
from hfpipe.runtime import Baseline, Encoder, Evaluator, Generator, ModelSetup, Objective, TaskRuntime
from hfpipe.task import Requirements, TaskConfig
from hfpipe.types import Counted

__all__ = [
    "Baseline",
    "Counted",
    "DataError",
    "DataFacts",
    "Encoder",
    "Evaluator",
    "Generator",
    "HfpipeError",
    "Launch",
    "ModelSetup",
    "Objective",
    "Problem",
    "RecipeError",
    "Requirements",
    "Run",
    "StageError",
    "TaskConfig",
    "TaskRuntime",
    "adopt",
    "compare",
    "copy_recipe",
    "demo",
    "doctor",
    "explain",
    "explain_run",
    "list_recipes",
    "load",
    "metrics",
    "open",
    "plan",
    "predict",
    "push",
    "replay",
    "rerun",
    "run",
    "schema",
    "show",
    "sizes",
    "status",
    "verify",
]
