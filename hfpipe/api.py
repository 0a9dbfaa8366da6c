"""Python API of the command line and the notebooks: one function per command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe import recipe as recipes
from hfpipe import runner
from hfpipe.contract import Progress, show_no_progress
from hfpipe.recipe import Recipe, shipped
from hfpipe.recipe.shipped import RecipeFile
from hfpipe.runner import Launch, PlannedStage
from hfpipe.runs import comparison
from hfpipe.runs.comparison import ComparisonRecord
from hfpipe.runs.lookup import open_run
from hfpipe.runs.run import Run, read_run
from hfpipe.runs.status import StageStatus, read_status
from hfpipe.stages import KINDS
from hfpipe.tasks import TASKS

if TYPE_CHECKING:
    from hfpipe.diagnosis.doctor import Deviation
    from hfpipe.diagnosis.replay import Replayed
    from hfpipe.estimation.disk import DiskSpace
    from hfpipe.estimation.estimate import Size
    from hfpipe.inference.explanation import Explanation
    from hfpipe.inference.inputs import Given
    from hfpipe.inspection.shown import ShownStage
    from hfpipe.runs.integrity import StageIntegrity

RUNS = Path("runs")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe; `overrides` have the form `stage.key=value`.

    Raises RecipeError with all problems.
    """
    return recipes.load_recipe(Path(path), kinds=KINDS, tasks=TASKS, overrides=overrides)


def plan(recipe: Recipe, runs: str | Path = RUNS, *, until: str | None = None) -> list[PlannedStage]:
    """Return the state of each stage: whether it is done and, if not, the reason. Starts nothing."""
    return runner.plan_recipe(recipe, Path(runs), until)


def sizes(
    recipe: Recipe,
    steps: Sequence[PlannedStage],
    *,
    launch: Launch = Launch(),  # noqa: B008 - frozen
) -> list[Size]:
    """Estimate memory, time and disk space of each stage of a plan; starts nothing, allocates no model.

    Memory is per process of `launch`. Raises RecipeError when its Accelerate config is wrong.
    """
    from hfpipe.estimation.estimate import estimate_sizes

    return estimate_sizes(recipe, steps, launch)


def disk_space(steps: Sequence[PlannedStage], found: Sequence[Size], runs: str | Path = RUNS) -> DiskSpace:
    """Compare the disk space that the stages of a plan need (`found` are their sizes) with the free space."""
    from hfpipe.estimation.disk import compare_disk

    return compare_disk(steps, [size.disk for size in found], Path(runs))


def run(
    recipe: Recipe,
    runs: str | Path = RUNS,
    *,
    until: str | None = None,
    launch: Launch = Launch(),  # noqa: B008 - frozen
    say: Callable[[str], None] = print,
    progress: Progress = show_no_progress,
) -> Run:
    """Run the stages that are not done yet and return the whole run.

    Raises RecipeError before anything starts when the recipe is wrong, and DataError or StageError when a
    stage fails; finished stages are not changed.
    """
    from hfpipe.reporting.model_card import write_card

    def planned(steps: Sequence[PlannedStage]) -> None:
        if not all(step.done for step in steps):
            from hfpipe.estimation.estimate import warn_of_disk  # slow to import

            warn_of_disk(recipe, steps, Path(runs), say)

    named = {name: getattr(stage, "licence", None) for name, stage in recipe.stages.items()}
    licences = {name: licence for name, licence in named.items() if licence is not None}
    steps = runner.run_recipe(
        recipe,
        Path(runs),
        until=until,
        launch=launch,
        say=say,
        progress=progress,
        planned=planned,
        finished=lambda step: write_card(step, licences, say),
    )
    return read_run({step.name: step.folder for step in steps})


def adopt(
    recipe: Recipe,
    stage: str,
    runs: str | Path = RUNS,
    *,
    confirm: Callable[[Path, Sequence[str]], bool] = lambda folder, changes: True,
    say: Callable[[str], None] = print,
) -> Path | None:
    """Take over the newest finished folder of a stage instead of running it again after a change.

    Only you can know that the change does not matter. `confirm` gets that folder and a line per change, and
    returns whether to go on; `say` gets a line if another process runs the stage. Returns the new folder,
    whose report names the changes, or None. Raises RecipeError when there is nothing to take over, StageError
    when the finished folder is damaged.
    """
    return runner.adopt_stage(recipe, stage, Path(runs), confirm, say)


def open(target: str | Path, runs: str | Path = RUNS) -> Run:  # noqa: A001 - hfpipe.open reads well
    """Open the results of a recipe, the newest results in a run's folder, or the folder of one stage.

    Raises RecipeError when no stage is done.
    """
    return open_run(Path(target), Path(runs))


def status(recipe: Recipe, runs: str | Path = RUNS) -> list[StageStatus]:
    """Return the progress of each stage, even while another process runs the recipe; starts nothing."""
    return [read_status(step) for step in runner.plan_recipe(recipe, Path(runs))]


def show(
    recipe: Recipe,
    stage: str,
    runs: str | Path = RUNS,
    *,
    rows: int = 4,
    split: str | None = None,
    progress: Progress = show_no_progress,
) -> ShownStage:
    """Return the first rows of a stage as it reads them: the real batches, or rows before and after cleaning.

    Nothing is trained, and nothing is written into the run. The stages that this one reads must have been
    run. `split` is by default `train`, or the split that an evaluate stage names.

    Raises RecipeError when there is no such stage or split, or an upstream stage was not run.
    """
    from hfpipe.inspection.stage_rows import show_stage

    steps = plan(recipe, runs)
    return show_stage(recipe, steps, stage, Path(runs), rows=rows, split=split, progress=progress)


def verify(target: str | Path, runs: str | Path = RUNS) -> list[StageIntegrity]:
    """Read every file of a recipe's stages, a run's folder or a stage's folder; compare it with its digest.

    Checkpoints and encoded data of unfinished stages are read too. Nothing is changed. `damage` of each
    stage lists the files that differ from what was written.

    Raises RecipeError when there is no stage.
    """
    from hfpipe.runs.integrity import check_integrity

    return check_integrity(Path(target), Path(runs))


def replay(crash: str | Path, *, tasks: Sequence[str] = ()) -> Replayed:
    """Recompute a crashed step in this process, and return what produces the value that is not finite.

    `crash` is the folder that the error of a training names. `tasks` names the user code (`file.py:Class`) of
    its task, which is executed only if it is named here.

    Raises RecipeError when the folder contains no crash, and StageError when it cannot be recomputed.
    """
    from hfpipe.diagnosis.replay import replay_crash

    runner.check_world()
    return replay_crash(Path(crash), tasks)


def doctor(
    recipe: Recipe,
    stage: str | None = None,
    runs: str | Path = RUNS,
    *,
    only: Sequence[str] = (),
    progress: Progress = show_no_progress,
) -> list[Deviation]:
    """Compare trainings at toy size that should give equal results: each training stage of a recipe, or one.

    `only` names comparisons (`accumulation`, `processes`, `packing`, `compile`, `bf16`, `resume`), by default
    all. A task that is user code is executed. Nothing in `runs` is changed.

    Raises RecipeError when there is no such stage or comparison, StageError when the model of a stage is not
    on this machine or its data cannot be replaced by text.
    """
    from hfpipe.diagnosis.doctor import examine_recipe

    runner.check_world()
    return list(examine_recipe(recipe, Path(runs), stage, only, progress))


def compare(*evaluated: str | Path, runs: str | Path = RUNS, tasks: Sequence[str] = ()) -> ComparisonRecord:
    """Compare the scores of the first of several evaluated models with the others on the rows they share.

    Each item of `evaluated` is a run or a recipe (with `:STAGE` if it evaluates several models), or the
    folder of an evaluate stage. Each difference has an interval and a p-value, corrected for the number of
    comparisons by Holm's method. `tasks` names the user code (`file.py:Class`) of tasks that were evaluated;
    user code is executed only if it is named here or in a given recipe.

    Raises RecipeError when fewer than two models are given or they have nothing in common.
    """
    return comparison.compare_runs([str(target) for target in evaluated], Path(runs), tasks)


def predict(
    model: str | Path,
    asked: Given,
    *,
    task: str | None = None,
    options: Sequence[str] = (),
    read: Sequence[str] = (),
    batch_size: int = 32,
    runs: str | Path = RUNS,
) -> list[dict[str, Any] | None]:
    """Return a trained model's prediction for each text or row, with the keys of Transformers' pipelines.

    The prediction is None for a row of a file with an empty value in a column that the model reads.

    `model` is a stage's folder, a run or recipe (with `:STAGE` if it has several models), a path, a
    `package:` reference or a Hub id. `asked` is a text, a list of texts, rows with the columns that the task
    reads, or the path of a file of such rows. `task` is by default the task that the model was trained on;
    user code is executed only if `task` names it, as `file.py:Class`, or if `model` is a recipe that names
    it. `options` are settings of the task in the form `key=value`; `read` are options of the file, as in a
    data set's source, in the same form.

    Raises RecipeError when there is no such model or its task is unknown, DataError when a row lacks a column
    that the model reads, and StageError when the model cannot be loaded.
    """
    found = answers(model, asked, task=task, options=options, read=read, batch_size=batch_size, runs=runs)
    return [answer for _, answer in found]


def answers(
    model: str | Path,
    asked: Given,
    *,
    task: str | None = None,
    options: Sequence[str] = (),
    read: Sequence[str] = (),
    batch_size: int = 32,
    runs: str | Path = RUNS,
) -> Iterator[tuple[Mapping[str, Any], dict[str, Any] | None]]:
    """Yield each row with the value `predict` returns for it, in order; `asked` may also be an open file."""
    from hfpipe.inference.inputs import read_input_rows
    from hfpipe.inference.resolve import resolve_model

    runner.check_world()
    trained = resolve_model(str(model), Path(runs), task, options)
    given = read_input_rows(asked, trained.task.inputs, read)  # before the model is loaded, which is slow

    from hfpipe.inference.loaded_model import LoadedModel

    return LoadedModel(trained, batch_size).predict(given)


def explain(
    model: str | Path,
    text: str | Mapping[str, Any],
    *,
    task: str | None = None,
    options: Sequence[str] = (),
    runs: str | Path = RUNS,
) -> Explanation:
    """Return a trained model's prediction for one text, and what it depends on.

    The explanation holds the attention of every layer and head, and integrated gradients by token, computed
    by captum (`pip install 'hfpipe[explain]'`); it plots both. `model`, `task` and `options` are those of
    `predict`; `text` is a text, or a row with the columns that the task reads.

    Raises RecipeError when there is no such model or its task is unknown, DataError when the text is too long
    for one example or a column is missing, and StageError for an encoder-decoder, a task with several choices
    or a model without attention weights.
    """
    from hfpipe.inference.inputs import read_input_rows
    from hfpipe.inference.resolve import resolve_model

    trained = resolve_model(str(model), Path(runs), task, options)
    given = read_input_rows([text], trained.task.inputs, ())

    from hfpipe.inference.explanation import explain_prediction
    from hfpipe.inference.loaded_model import LoadedModel

    loaded = LoadedModel(trained, batch_size=1)
    [row] = loaded.check_rows(given)
    return explain_prediction(loaded.predictor, row.values)


def list_recipes() -> list[RecipeFile]:
    """Return the recipes that are shipped with hfpipe, and the Accelerate configs next to them.

    Raises RecipeError when the installation contains none.
    """
    return shipped.list_shipped_recipes()


def copy_recipe(name: str, folder: str | Path = "recipes") -> list[Path]:
    """Copy a recipe and the files it refers to into a folder; return their paths, with the recipe first.

    Existing files are never overwritten; a file with the same content is kept.
    Raises RecipeError, and copies nothing, when there is no such recipe or a different file exists.
    """
    return shipped.copy_shipped_recipe(name, folder)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe."""
    from hfpipe.recipe.schema import make_recipe_schema as of

    return of(KINDS, TASKS)


def run_stage(folder: str | Path, progress: Progress = show_no_progress) -> None:
    """Run one process of a prepared stage; `accelerate launch -m hfpipe stage` calls it."""
    runner.run_launched_stage(Path(folder), progress)
