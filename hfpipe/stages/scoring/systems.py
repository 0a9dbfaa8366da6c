"""The systems of an evaluate stage: its model, and the baselines that are models, with tasks and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfpipe.advice import advise
from hfpipe.contract import RunContext
from hfpipe.errors import RecipeError, StageError
from hfpipe.references.places import Place, locate_place
from hfpipe.references.user_code import Trusted
from hfpipe.report import DataFacts
from hfpipe.store.store import read_stage
from hfpipe.task import Task

if TYPE_CHECKING:
    from hfpipe.evaluation.class_alignment import Alignment
    from hfpipe.stages.evaluate import Evaluate


@dataclass(frozen=True)
class EvaluatedSystem:
    """A model to evaluate, and its task."""

    place: Place
    task: Task
    outputs: Sequence[int] = ()
    """For each class, its position in the outputs of the model, where they have another order."""


def evaluated_systems(stage: Evaluate, ctx: RunContext) -> list[EvaluatedSystem]:
    """Return the model, then every baseline that is a model too. Raises StageError where there is no task."""
    task = stage.task or _trained_for(stage, stage.model, ctx)
    if task is None:
        raise StageError(
            f"stage {ctx.name}: {stage.model} does not name the task it was trained for; add task:"
        )
    models = [place for place in stage.baselines if place not in task.baselines]
    own = [_trained_for(stage, place, ctx) or task for place in models]
    # A system that was trained for another task, such as a pretrained model, gets that of the model.
    tasks = [other if other.kind == task.kind else task for other in own]
    return [EvaluatedSystem(stage.model, task), *map(EvaluatedSystem, models, tasks)]


def _trained_for(stage: Evaluate, place: Place, ctx: RunContext) -> Task | None:
    """Return the task that a model was trained for, if its folder says so.

    User code is executed only where this recipe names it, for a stage above or this one, or sets
    `trust_remote_code`; never because the folder of a model names it.
    """
    from hfpipe.tasks import revive_task

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
        return revive_task(settings, ctx.base, Trusted(all=True), path)  # the key is that of this recipe
    own = [stage.task.code] if stage.task is not None and stage.task.code is not None else []
    trusted = replace(Trusted.of(own, ctx.base), all=stage.trust_remote_code)
    try:
        return revive_task(settings, base, trusted, path)
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
    from hfpipe.modeling.loading.models import headed_config, loading

    found = []
    for system in systems:
        place, task = locate_place(system.place, ctx.base, ctx.inputs) or system.place, system.task
        headed = "id2label" in task.head(facts)
        auto_class = task.auto_class if headed else None
        config = headed_config(place, auto_class, trust_remote_code=stage.trust_remote_code)
        with loading(place):
            known = task.facts_from_config(config)
        found.append(class_alignment.AlignedSystem(system.place, known, headed))
    for problem in class_alignment.alignment_problems(facts, stage.data, found, stage.labels):
        raise StageError(f"stage {ctx.name}: {problem.message}")
    return class_alignment.align(facts, found, stage.labels)
