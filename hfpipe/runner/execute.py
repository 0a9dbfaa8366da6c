"""Running what is not done yet, in order, alone or as one of several processes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.contract import Progress, RunContext
from hfpipe.errors import StageError
from hfpipe.recipe import Recipe
from hfpipe.runner.allocator import growing_segments
from hfpipe.runner.failures import logged, told
from hfpipe.runner.hub import check_hub
from hfpipe.runner.launch import (
    PARENT,
    Launch,
    check_launch,
    check_processes,
    check_world,
    end_with_parent,
    launched,
    rank,
    report_failure,
    start,
)
from hfpipe.runner.plan import Step, check_ahead, check_known, plan
from hfpipe.stages import revive
from hfpipe.store import StageFile, Store, done, read_report, read_stage, write_whole

if TYPE_CHECKING:
    from hfpipe.report import Report

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between looks at the file system while another process works."""
LIBRARIES = (
    "hfpipe",
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "accelerate",
    "scikit-learn",
    "sacrebleu",
)


def run(
    recipe: Recipe,
    runs: Path,
    *,
    until: str | None = None,
    launch: Launch = Launch(),  # noqa: B008 - frozen
    say: Callable[[str], None],
    progress: Progress,
) -> list[Step]:
    """Run every stage that is not done, up to `until`, and return the finished plan.

    Raises RecipeError before anything starts when the recipe is wrong, StageError or DataError when a
    stage fails; what was finished before stays as it is.
    """
    check_world()
    check_launch(launch)
    steps = plan(recipe, runs, until)
    todo = {step.name: step.stage for step in steps if not step.done}
    check_processes(launch, todo)
    check_hub(recipe, todo)
    for step in steps:
        new = not done(step.folder)
        if new:
            check_ahead(recipe, steps)
            with growing_segments():
                if rank() == 0:
                    _lead(recipe, runs, step, launch, say, progress)
                else:
                    _follow(recipe, step, progress)
        if rank() == 0:
            report = read_report(step.folder)
            say(f"{step.name}: {'done' if step.done else f'{report.seconds:.0f} s'} · {report.summary}")
        if new:
            check_known(recipe, steps)  # after the summary, which may explain what is wrong
    return [replace(step, done=True, why=()) for step in steps]


def run_stage(folder: Path, progress: Progress) -> None:
    """Be one of the processes of a stage that `run` has prepared and launched.

    Raises StageError when the folder is not a prepared stage, when no `hfpipe run` started this process (a
    stage's settings can name code to execute), or when the processes are not those asked for.
    """
    end_with_parent()
    check_world()
    file = read_stage(folder)
    ctx = _context(file, folder, progress)
    if done(folder) or not ctx.work.is_dir():
        raise StageError(f"{folder}: is not being made; hfpipe run RECIPE prepares a stage and starts this")
    if PARENT not in os.environ:
        raise StageError(
            f"{folder}: `hfpipe stage` is started by `hfpipe run RECIPE --processes N`; run that"
        )
    with report_failure(folder, file.name), told(ctx), logged(ctx), growing_segments():
        report = revive(file.identity.settings, Path(file.base), folder).run(ctx)
        if rank() == 0:
            write_whole(ctx.work / "result.json", report.model_dump_json())


def _lead(
    recipe: Recipe, runs: Path, step: Step, launch: Launch, say: Callable[[str], None], progress: Progress
) -> None:
    store, file = Store(runs / recipe.name), _file(recipe, step)
    ctx = _context(file, step.folder, progress)

    def waiting(owner: str) -> None:
        say(f"{step.name}: waiting for {owner}, which is making it")

    with told(ctx), store.lock(step.folder, waiting):
        if done(step.folder):
            return
        store.begin(step.folder, file)
        started = time.monotonic()
        with logged(ctx):
            for notice in step.stage.notices(ctx, alone=launch.here and not launched()):
                say(f"{step.name}: {notice}")
                log.warning(notice)
            step.stage.prepare(ctx)
            report = _run_here_or_launched(step, ctx, launch)
        store.finish(step.folder, _complete(report, time.monotonic() - started))


def _run_here_or_launched(step: Step, ctx: RunContext, launch: Launch) -> Report:
    from hfpipe.report import Report

    if step.stage.distributed and not launch.here:
        start(launch, ctx.folder)
        return Report.model_validate_json((ctx.work / "result.json").read_text(encoding="utf-8"))
    if step.stage.distributed and launched():
        write_whole(ctx.work / "ready", _attempt())
    return step.stage.run(ctx)


def _follow(recipe: Recipe, step: Step, progress: Progress) -> None:
    ctx = _context(_file(recipe, step), step.folder, progress)
    while not done(step.folder) and not (step.stage.distributed and _ready(ctx)):
        time.sleep(POLL)
    if not done(step.folder):
        with told(ctx), logged(ctx):
            step.stage.run(ctx)
    while not done(step.folder):
        time.sleep(POLL)


def _ready(ctx: RunContext) -> bool:
    """Tell whether the first process of this very start has prepared the stage."""
    with suppress(OSError):  # not there yet, or another run has just finished the stage
        return (ctx.work / "ready").read_text(encoding="utf-8") == _attempt()
    return False


def _attempt() -> str:
    """Name this start of the launcher, so that what a killed one left behind is not taken for ready."""
    single = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
    names = (
        "TORCHELASTIC_RUN_ID",
        "TORCHELASTIC_RESTART_COUNT",
        "MASTER_ADDR",
        "MASTER_PORT",
        "SLURM_JOB_ID",
    )
    return json.dumps([os.getppid() if single else 0, *(os.environ.get(name, "") for name in names)])


def _file(recipe: Recipe, step: Step) -> StageFile:
    folders = {name: f"{name}-{key}" for name, key in step.identity.inputs.items()}
    base = str(recipe.base.absolute())
    return StageFile(name=step.name, base=base, folders=folders, identity=step.identity)


def _context(file: StageFile, folder: Path, progress: Progress) -> RunContext:
    return RunContext(
        name=file.name,
        folder=folder,
        base=Path(file.base),
        seed=file.identity.seed,
        inputs={name: folder.parent / other for name, other in file.folders.items()},
        progress=progress,
    )


def _complete(report: Report, seconds: float) -> Report:
    versions: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return report.model_copy(update={"seconds": round(seconds, 3), "versions": versions})
