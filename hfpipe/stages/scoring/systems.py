"""The systems of an evaluate stage: its model, and the baselines that are models, with tasks and classes.

A model that was trained several times, for example for several seeds, is one system with several models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfpipe.advice import advise
from hfpipe.contract import RunContext
from hfpipe.errors import RecipeError, StageError
from hfpipe.references.places import Place, locate_place
from hfpipe.references.user_code import Trusted
from hfpipe.report import DataFacts, Score
from hfpipe.stages.repeats.members import OUT_OF_FOLD, find_members
from hfpipe.store.artifacts import MODEL, get_predictions_path
from hfpipe.store.digests import Digests
from hfpipe.store.store import check_whole, read_report, read_stage
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfpipe.evaluation.class_alignment import Alignment
    from hfpipe.runtime import TaskRuntime
    from hfpipe.stages.evaluate import Evaluate


@dataclass(frozen=True)
class EvaluatedSystem:
    """A model to evaluate, and its task."""

    place: Place
    task: TaskConfig
    name: str
    """Its name among the systems of the stage: `model`, or a baseline as the recipe writes it."""
    outputs: Sequence[int] = ()
    """Index of each class in the outputs of the model, if their order differs."""
    members: Mapping[Place, Path] = field(default_factory=dict)
    """Training → its folder, if the model was trained several times."""
    folded: bool = False
    """Whether each training predicts its held-out rows, which together are the split."""

    def list_models(self, ctx: RunContext) -> dict[str, Path | Place]:
        """Return the models to evaluate, by the names of their predictions."""
        if self.members:
            return {str(place): folder for place, folder in self.members.items()}
        return {self.name: locate_place(self.place, ctx.base, ctx.inputs) or self.place}

    def get_first_model(self, ctx: RunContext) -> Path | Place:
        """Return the model from which properties of all trainings are read, such as tokenizer and classes."""
        return next(iter(self.list_models(ctx).values()))

    def list_predictions(self, folder: Path) -> dict[str, Path]:
        """Return the file of predictions of each training, or of the only model or all folds."""
        if self.folded:
            return {self.name: get_predictions_path(folder, self.name)}
        return {name: get_predictions_path(folder, name) for name in map(str, self.members or [self.name])}


def list_systems(stage: Evaluate, ctx: RunContext) -> list[EvaluatedSystem]:
    """Return the model, then all baselines that are models. Raises StageError without a task."""
    task = stage.task or _read_trained_task(stage, stage.model, ctx)
    if task is None:
        raise StageError(
            f"stage {ctx.name}: {stage.model} does not name the task it was trained for; add task:"
        )
    models = [place for place in stage.baselines if place not in task.baselines]
    own = [_read_trained_task(stage, place, ctx) or task for place in models]
    # A system that was trained for another task, such as a pretrained model, gets that of the model.
    tasks = [other if other.kind == task.kind else task for other in own]
    found = [
        EvaluatedSystem(stage.model, task, MODEL),
        *map(EvaluatedSystem, models, tasks, map(str, models)),
    ]
    folded = stage.split == OUT_OF_FOLD
    return [replace(each, members=_find_members(each.place, ctx), folded=folded) for each in found]


def _find_members(place: Place, ctx: RunContext) -> dict[Place, Path]:
    """Return the trainings that a place sums up, if it does. Raises StageError where one is damaged."""
    folder = locate_place(place, ctx.base, ctx.inputs)
    members = find_members(folder) if folder is not None else {}
    for path in members.values():
        check_whole(path, Digests())
    return members


def _read_trained_task(stage: Evaluate, place: Place, ctx: RunContext) -> TaskConfig | None:
    """Return the task that a model was trained for, if its folder says so.

    User code is executed only where this recipe names it, for a stage above or this one, or sets
    `trust_remote_code`; never because the folder of a model names it.
    """
    from hfpipe.tasks import restore_task

    path = locate_place(place, ctx.base, ctx.inputs)
    if path is None or not (path / "stage.json").is_file():
        return None
    file = read_stage(path)
    settings, base = file.identity.settings.get("task"), Path(file.base)
    if not isinstance(settings, Mapping):
        return None
    if place.stage is not None:
        if not path.name.endswith(f"-{file.identity.key}"):
            raise StageError(f"{path}: its stage.json is another stage's; delete the folder and run again")
        return restore_task(settings, ctx.base, Trusted(all=True), path)  # the key is that of this recipe
    own = [stage.task.code] if stage.task is not None and stage.task.code is not None else []
    trusted = replace(Trusted.from_code(own, ctx.base), all=stage.trust_remote_code)
    try:
        return restore_task(settings, base, trusted, path)
    except RecipeError as error:
        raise StageError(
            f"{place}: its task is user code ({settings.get('kind')} next to {base}), which this recipe "
            f"does not name; write it as task:, or add {advise(trust_remote_code=True)}"
        ) from error


def align_classes(
    stage: Evaluate, facts: DataFacts, systems: Sequence[EvaluatedSystem], ctx: RunContext
) -> Alignment:
    """Align the classes of the data with those of every model. Raises StageError where that cannot be."""
    from hfpipe.evaluation import class_alignment
    from hfpipe.modeling.loading.models import read_head_config, translate_loading_errors

    found = []
    for system in systems:
        place, task = system.get_first_model(ctx), system.task
        headed = "id2label" in task.head(facts)
        auto_class = task.auto_class if headed else None
        config = read_head_config(place, auto_class, trust_remote_code=stage.trust_remote_code)
        with translate_loading_errors(place):
            known = task.facts_from_config(config)
        found.append(class_alignment.AlignedSystem(system.place, known, headed))
    for problem in class_alignment.find_alignment_problems(facts, stage.data, found, stage.labels):
        raise StageError(f"stage {ctx.name}: {problem.message}")
    return class_alignment.align(facts, found, stage.labels)


def list_repeated_systems(systems: Sequence[EvaluatedSystem]) -> dict[str, Any]:
    """Return the trainings of each system that has several, as a fact for the report."""
    found = {each.name: list(map(str, each.members)) for each in systems if each.members and not each.folded}
    folds = {"folds": len(systems[0].members)} if systems[0].folded else {}
    return {"trainings": found, **folds} if found else folds


def add_checkpoints(scores: Sequence[Score], model: Place, ctx: RunContext) -> list[Score]:
    """Return the scores with what the last checkpoints vary, where the trainings were validated often enough.

    It is known of scores that the validation split has as well, and it is that split's.
    """
    folder = locate_place(model, ctx.base, ctx.inputs)
    if folder is None or not any(score.spread for score in scores):
        return list(scores)
    known = read_report(folder).facts.get("spread", {})
    if any(score.spread.over != "seeds" for score in scores if score.spread):
        return list(scores)
    return [
        score.model_copy(update={"spread": score.spread.model_copy(update={"checkpoints": found})})
        if score.spread is not None and (found := known.get(score.metric, {}).get("checkpoints"))
        else score
        for score in scores
    ]


def load_system(
    stage: Evaluate, system: EvaluatedSystem, place: Path | Place, ctx: RunContext
) -> tuple[PreTrainedModel, TaskRuntime]:
    """Return a model of a system and its task, calibrated, with its outputs in the order of the classes.

    Raises StageError when the model cannot do the task.
    """
    from hfpipe.evaluation.calibration import apply_calibration
    from hfpipe.modeling.loading.class_head import align_outputs
    from hfpipe.modeling.loading.models import load_model
    from hfpipe.modeling.max_length import find_refusals

    task = system.task
    model = load_model(
        task.auto_class,
        place,
        ctx.seed,
        whole=True,
        trust_remote_code=stage.trust_remote_code,
        trusts_export=system.place.stage is not None,
    )
    for why in find_refusals(task.runtime(), model):
        raise StageError(f"stage {ctx.name}: {system.place}: {why}")
    task = apply_calibration(model, task, place, stage.labels)
    if system.outputs:
        align_outputs(model, system.outputs)
    return model, task.runtime()
