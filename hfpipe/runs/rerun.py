"""Checks whether a finished stage is reproducible: runs it again in a separate folder, and compares."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hfpipe import runner
from hfpipe.contract import Progress, show_no_progress
from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe import Recipe
from hfpipe.store.artifacts import METRICS
from hfpipe.store.store import read_report

_CLOCK = re.compile(r"time|memory_bytes|.*_runtime|.*_per_second")
"""Values of `metrics.jsonl` that differ between two equal trainings."""


@dataclass(frozen=True)
class Rerun:
    """Result of running a stage again."""

    folder: Path
    """The finished stage, which was not changed."""
    summary: str
    differences: tuple[str, ...] = ()
    """A line for the first logged step that differs and one for each file; empty if all bits are equal."""


def rerun(
    recipe: Recipe, stage: str, runs: str | Path = "runs", *, progress: Progress = show_no_progress
) -> Rerun:
    """Run a finished stage again in a separate folder, from the same inputs, and compare it bit for bit.

    The training log gives the first step that differs, at the resolution of `logging_steps`. Speed, memory
    and times are not compared. The stage runs in this process.

    Raises RecipeError when there is no such stage or it is not done, and the errors of running it.
    """
    steps = runner.plan_recipe(recipe, Path(runs), stage)
    for step in steps:
        if not step.done:
            message = f"{recipe.path}: {step.name} is not done, so there is nothing to compare; run it first"
            raise RecipeError([Problem(message)])
    first = steps[-1].folder
    with TemporaryDirectory(prefix=".again-", dir=runs) as scratch:
        run = Path(scratch) / recipe.name
        run.mkdir()
        for step in steps[:-1]:
            (run / step.folder.name).symlink_to(step.folder.resolve(), target_is_directory=True)
        runner.run_recipe(recipe, Path(scratch), until=stage, say=lambda _: None, progress=progress)
        again = run / first.name
        steps_compared, differences = _compare_logs(first / METRICS, again / METRICS)
        differences += _compare_files(first, again)
    state = "differs when it is run again" if differences else "equal when it is run again, bit for bit"
    logged = f", {steps_compared:,} logged steps" if steps_compared else ""
    return Rerun(first, f"{state}: {len(read_report(first).files):,} files{logged}", tuple(differences))


def _compare_logs(first: Path, again: Path) -> tuple[int, list[str]]:
    """Return how many records of two training logs were compared, and the first one that differs."""
    before, after = _read_log(first), _read_log(again)
    for count, (one, other) in enumerate(zip(before, after, strict=False), 1):
        if one != other:
            names = [name for name in one | other if one.get(name) != other.get(name)]
            values = ", ".join(f"{name} {one.get(name)} then and {other.get(name)} now" for name in names)
            return count, [f"step {one['step']} is the first that differs: {values}"]
    if len(before) != len(after):
        return len(before), [f"{METRICS} has {len(before):,} records, and {len(after):,} now"]
    return len(before), []


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{name: value for name, value in each.items() if not _CLOCK.fullmatch(name)} for each in records]


def _compare_files(first: Path, again: Path) -> Iterator[str]:
    before, after = read_report(first).files, read_report(again).files
    for name in sorted(before | after):
        if name != METRICS and before.get(name) != after.get(name):
            missing = (
                "was not written" if name not in after else "is new" if name not in before else "differs"
            )
            yield f"{name} {missing}"
