"""Finds the run or stage that an argument of the command line names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from shlex import quote

from hfpipe import recipe as recipes
from hfpipe import runner
from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe.messages import join_names
from hfpipe.references.user_code import Trusted
from hfpipe.runs.run import Run, open_newest_run, read_run
from hfpipe.stages import KINDS
from hfpipe.store.artifacts import METRICS
from hfpipe.store.store import collect_user_code, is_done, read_stage
from hfpipe.tasks import TASKS


def open_run(path: Path, runs: Path) -> Run:
    """Open the results of a recipe, the newest of each stage in a run's folder, or a single stage's folder.

    Raises RecipeError when no stage is done.
    """
    if (path / "stage.json").is_file():
        return _open_single(path)
    if path.is_dir():
        return open_newest_run(path)
    check_exists(path)
    recipe = recipes.load_recipe(path, kinds=KINDS, tasks=TASKS)
    code = (code for stage in recipe.stages.values() for code in collect_user_code(stage))
    folders = {step.name: step.folder for step in runner.plan_recipe(recipe, runs)}
    found = read_run(folders, Trusted.from_code(code, recipe.base), path)
    if not found.reports and not found.unfinished:
        raise RecipeError(
            [Problem(f"{path}: no stage is done in {runs}; run hfpipe run {quote(str(path))} first")]
        )
    return found


def check_exists(target: Path) -> None:
    """Raise RecipeError when a recipe or the folder of a run does not exist."""
    if not target.exists() and target.suffix not in (".yaml", ".yml"):  # of those, the reader says it
        raise RecipeError([Problem(f"{target}: does not exist; run its recipe first with hfpipe run")])


def _open_single(folder: Path) -> Run:
    if not is_done(folder) and not (folder / METRICS).is_file():
        raise RecipeError([Problem(f"{folder}: is not finished; run its recipe first")])
    return read_run({read_stage(folder).name: folder})


def find_stage(target: str, runs: Path, kinds: Collection[str], what: str) -> tuple[Run, str]:
    """Return the run and the stage of `PATH` or `PATH:STAGE`, where PATH is an argument of `open_run`.

    Without STAGE it is the only stage of these kinds; `what` is the name of such a stage in messages. Raises
    RecipeError when there is no such stage, or when the choice is ambiguous.
    """
    path, stage = split_target(target)
    run = open_run(Path(path), runs)
    fitting = [name for name, report in run.reports.items() if report.kind in kinds]
    if stage is None and len(fitting) == 1:
        return run, fitting[0]
    if stage is not None:
        run.folder(stage)  # raises if there is none
    if stage in fitting:
        return run, stage
    if not fitting:
        raise RecipeError([Problem(f"{target}: has no {what}")])
    choice = join_names([f"{path}:{name}" for name in fitting], "or")
    wrong = f"{stage!r} is not a {what}" if stage is not None else f"has more than one {what}"
    raise RecipeError([Problem(f"{target}: {wrong}; write {choice}")])


def split_target(target: str) -> tuple[str, str | None]:
    """Return path and stage of `PATH:STAGE` if PATH exists; otherwise the whole text, such as a Hub id."""
    path, colon, stage = target.rpartition(":")
    return (path, stage) if colon and not Path(target).exists() and Path(path).exists() else (target, None)
