"""Shows the rows of one stage of a recipe; the stages that it reads must be finished, but not it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hfpipe.contract import Progress, RunContext, Stage
from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe import Recipe
from hfpipe.recipe.messages import join_names, suggest
from hfpipe.references.places import Place, collect
from hfpipe.runner import PlannedStage
from hfpipe.runner.execute import make_stage_file
from hfpipe.runner.inputs import check_inputs
from hfpipe.stages.dataset import Dataset
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.finetune import Finetune
from hfpipe.stages.pretrain import Pretrain
from hfpipe.stages.repeats.group import RepeatedTraining

if TYPE_CHECKING:
    from hfpipe.inspection.shown import ShownStage

WITH_ROWS = (Dataset, Pretrain, Finetune, Evaluate)
"""Kinds of stage that read rows."""


def show_stage(
    recipe: Recipe,
    steps: Sequence[PlannedStage],
    name: str,
    runs: Path,
    *,
    rows: int,
    split: str | None,
    progress: Progress,
) -> ShownStage:
    """Return the first rows of the stage `name` of a plan.

    Raises RecipeError when there is no such stage, it has no rows, or a stage that it reads was not run;
    DataError and StageError like the stage itself.
    """
    planned = {step.name: step for step in steps}
    if name not in planned:
        raise RecipeError([Problem(f"show {name}: there is no such stage{suggest(name, planned)}")])
    step = planned[name]
    _check_readable(recipe, name, planned, runs, split)
    with TemporaryDirectory(prefix="hfpipe-show-") as scratch:
        ctx = RunContext(
            name=name,
            folder=Path(scratch) / step.folder.name,
            base=recipe.base.absolute(),
            seed=step.identity.seed,
            inputs={above: planned[above].folder for above in step.identity.inputs},
            progress=progress,
        )
        ctx.work.mkdir(parents=True)
        (ctx.folder / "stage.json").write_text(
            make_stage_file(recipe, step).model_dump_json(), encoding="utf-8"
        )
        check_inputs(step.stage, ctx, runs)
        return _show_rows(step.stage, ctx, split, rows)


def _show_rows(stage: Stage, ctx: RunContext, split: str | None, rows: int) -> ShownStage:
    from hfpipe.inspection import batches, cleaned_rows

    if isinstance(stage, Dataset):
        return cleaned_rows.show_cleaning(stage, ctx, split, rows)
    if isinstance(stage, Pretrain | Finetune):
        return batches.show_training(stage, ctx, split or "train", rows)
    assert isinstance(stage, Evaluate)
    given = stage if split is None else stage.model_copy(update={"split": split})
    return batches.show_evaluation(given, ctx, rows)


def _check_readable(
    recipe: Recipe, name: str, planned: Mapping[str, PlannedStage], runs: Path, split: str | None
) -> None:
    """Raise RecipeError if a stage has no such rows, or if a stage that it reads was not run."""
    stage = planned[name].stage
    if isinstance(stage, RepeatedTraining):
        each = join_names(stage.members, "or")
        raise RecipeError([Problem(f"show {name}: it consists of several trainings; show one: {each}")])
    if not isinstance(stage, WITH_ROWS):
        others = [other for other, step in planned.items() if isinstance(step.stage, WITH_ROWS)]
        fix = f"name {join_names(others, 'or')}"
        raise RecipeError([Problem(f"show {name}: a stage of kind {stage.kind} has no rows; {fix}")])
    if isinstance(stage, Pretrain | Finetune) and split not in (None, "train", "validation"):
        fix = f"a {stage.kind} stage reads train and validation; write one of them"
        raise RecipeError([Problem(f"--split {split}: {fix}")])
    missing = [above for above in _list_needed(stage) if not planned[above].done]
    if missing:
        last = max(missing, key=list(planned).index)
        options = [f"--set {quote(text)}" for text in recipe.document.overrides.values()]
        if runs != Path("runs"):
            options.append(f"--runs {quote(str(runs))}")
        command = " ".join(["hfpipe run", quote(str(recipe.path)), f"--until {quote(last)}", *options])
        needs = f"it reads {join_names(above for above in planned if above in missing)}, not run yet"
        raise RecipeError([Problem(f"show {name}: {needs}; run `{command}` first")])


def _list_needed(stage: Stage) -> Iterator[str]:
    """Yield the stages whose folders are needed; a training with its own tokenizer needs no weights."""
    weights = isinstance(stage, Pretrain | Finetune) and stage.tokenizer is not None
    for path, place in collect(stage, Place):
        if place.stage is not None and not (weights and path == ("model",)):
            yield place.stage
