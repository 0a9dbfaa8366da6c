"""Resolves the model argument of `hfpipe predict`, and the task that defines inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe.aliases import suggest_kind
from hfpipe.recipe.messages import join_names
from hfpipe.recipe.overrides import apply_options
from hfpipe.recipe.settings import find_mistakes
from hfpipe.references import hub
from hfpipe.references.places import Code, Place, check_regular, locate_place
from hfpipe.references.user_code import NOTHING, Trusted
from hfpipe.runner.hub import describe_unreachable
from hfpipe.runs.lookup import find_stage, split_target
from hfpipe.store.artifacts import MODELS
from hfpipe.store.digests import Digests
from hfpipe.store.store import check_whole, is_stage_folder, read_stage
from hfpipe.task import TaskConfig
from hfpipe.tasks import TASKS, restore_task
from hfpipe.user_tasks import load_task_class

BY_HEAD = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
"""Suffix of a Transformers class name → task of its models."""


class TrainedModel(NamedTuple):
    """Location and task of a trained model."""

    place: Path | Place
    task: TaskConfig
    by_recipe: bool = False
    """Whether a recipe names the model's stage, so that what the stage wrote may be executed."""


def resolve_model(target: str, runs: Path, kind: str | None, options: Sequence[str]) -> TrainedModel:
    """Resolve a stage's folder, a run or recipe (`:STAGE`), a path, a package or a Hub id to a model.

    Its task is `kind`, or the task of its training stage, or that of its config; `options` are settings of
    the task as `key=value`. User code is executed if `kind` names it, relative to the current folder, or if
    `target` is a recipe that names it; code that only the model's folder names is never executed. Raises
    RecipeError when there is no such model or its task is unknown, DataError when its folder contains a pipe
    or device, and StageError when the folder of a stage is damaged.
    """
    place, trusted, by_recipe = _locate_model(target, runs)
    if isinstance(place, Path):
        check_regular(place)
        check_whole(place, Digests())
    _check_hub(place)
    named = Code(kind) if kind is not None and re.fullmatch(Code.pattern, kind) else None
    if named is not None:
        trusted = replace(trusted, code=trusted.code | Trusted.from_code([named], Path.cwd()).code)
    settings, cls = _read_trained_task(place, kind, named, trusted)
    if not settings:
        found = kind or _infer_task(place)
        settings, cls = {"kind": found}, _get_task_class(found)
    apply_options(settings, options)
    try:
        return TrainedModel(place, cls.model_validate(settings), by_recipe)
    except ValidationError as error:
        raise RecipeError(find_mistakes(cls, settings, ("task",), error)) from None


def _locate_model(target: str, runs: Path) -> tuple[Path | Place, Trusted, bool]:
    path = Path(target)
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return path, NOTHING, False
    if Path(split_target(target)[0]).exists():
        run, stage = find_stage(target, runs, MODELS, "trained model")
        return run.folder(stage), run.trusted, run.recipe is not None
    if runs in path.parents or is_stage_folder(path.name):
        raise RecipeError([Problem(f"{target}: does not exist; run its recipe first with hfpipe run")])
    if not re.fullmatch(Place.pattern, target):
        raise RecipeError([Problem(f"{target}: is neither there nor {Place.meant}")])
    return locate_place(Place(target), Path.cwd(), {}) or Place(target), NOTHING, False


def _check_hub(place: Path | Place) -> None:
    """Raise RecipeError for a Hub model that is not available, before heavy libraries are imported."""
    if isinstance(place, Path) or place.hub is None or hub.is_offline() or hub.is_cached(*place.hub):
        return
    if (cause := hub.explain_unreachable()) is not None:
        raise RecipeError([Problem(describe_unreachable(str(place), cause))])


def _read_trained_task(
    place: Path | Place, kind: str | None, named: Code | None, trusted: Trusted
) -> tuple[dict[str, Any], type[TaskConfig]]:
    """Return the prediction settings of a stage's model, with their class; none if `kind` is another task."""
    if not isinstance(place, Path) or not (place / "stage.json").is_file():
        return {}, TaskConfig
    file = read_stage(place)
    settings, base = file.identity.settings.get("task") or {}, Path(file.base)
    own = str(settings.get("kind"))
    code = Code(own) if re.fullmatch(Code.pattern, own) else None
    if kind is not None and code is not None and not trusted.allows(code, base):
        return {}, TaskConfig
    if named is not None and (code is None or not Trusted.from_code([named], Path.cwd()).allows(code, base)):
        return {}, TaskConfig
    task = restore_task(settings, base, trusted, place)
    asked = task.prediction_task
    if kind is not None and named is None and kind != asked.get("kind"):
        return {}, TaskConfig
    return asked, type(task) if asked["kind"] == task.kind else _get_task_class(asked["kind"])


def _infer_task(place: Path | Place) -> str:
    from hfpipe.inference.predictor import read_architecture

    found = read_architecture(place)
    for ending, kind in BY_HEAD.items():
        if found.endswith(ending):
            return kind
    wrong = f"{place}: its config ({found or 'no architecture'}) does not name the task it was trained for"
    raise RecipeError([Problem(f"{wrong}; add --task {join_names(TASKS, 'or')}")])


def _get_task_class(kind: str) -> type[TaskConfig]:
    if re.fullmatch(Code.pattern, kind):
        return load_task_class(Code(kind), Path.cwd())
    if kind not in TASKS:
        raise RecipeError([Problem(f"there is no task {kind!r}{suggest_kind(kind, TASKS)}")])
    return TASKS[kind]
