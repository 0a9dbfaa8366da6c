"""Loads a user-defined task from a file; one-line errors explain why a class is not a task.

Used for recipes, finished stages and `--task`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfpipe.errors import DataError, join_words
from hfpipe.references.places import Code
from hfpipe.references.user_code import load_code
from hfpipe.runtime import Encoder, Evaluator, Generator, ModelSetup, Objective
from hfpipe.task import TaskConfig

PARTS = {
    "encoder": Encoder,
    "objective": Objective,
    "evaluator": Evaluator,
    "generator": Generator,
    "model_setup": ModelSetup,
}
"""Part of a runtime → its interface."""
RENAMED = {
    "fit_baseline": "baselines",
    "baseline_metrics": "baselines",
    "generates": "generator",
    "check_model": "model_setup",
    "configure_model": "model_setup",
}
"""Method that tasks had in earlier versions → the part of a runtime that has it under another name."""
MANUAL = "see 'Adding a task' in the manual"


def load_task_class(code: Code, base: Path) -> type[TaskConfig]:
    """Execute a user's file and return the class of its task; `base` is the folder of the recipe.

    Raises DataError in one line when there is no such class, or it is not a complete task.
    """
    try:
        cls = load_code(code, base)
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, ImportError | AttributeError) and "'Task'" in str(cause):
            raise DataError(f"{error}; it is now TaskConfig, {MANUAL}") from cause
        raise
    if not isinstance(cls, type) or not issubclass(cls, TaskConfig):
        raise DataError(f"{code} is not a subclass of hfpipe.TaskConfig")
    for line, name, part in _find_moved_methods(cls):
        raise DataError(
            f"{code} defines {name!r} in line {line}, which has no effect there; it belongs to the {part} "
            f"that 'runtime' returns, {MANUAL}"
        )
    lacks = [repr(name) for name in sorted(cls.__abstractmethods__)]
    if lacks:
        raise DataError(f"{code} cannot be used yet; it must still define {join_words(lacks)}")
    return cls


def _find_moved_methods(cls: type[Any]) -> Iterator[tuple[int, str, str]]:
    """Yield the methods of a task without `runtime` that a part of a runtime has: line, name and part."""
    own = [each for each in cls.__mro__ if not each.__module__.startswith("hfpipe.")]
    if any("runtime" in vars(each) for each in own):
        return
    parts = {name: part for part, interface in PARTS.items() for name in vars(interface)} | RENAMED
    for each in own:
        for name, value in vars(each).items():
            code = getattr(value.fget if isinstance(value, property) else value, "__code__", None)
            if name in parts and not name.startswith("_") and code is not None:
                yield code.co_firstlineno, name, parts[name]
