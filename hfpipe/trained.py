"""A trained model as `hfpipe predict` is told it, and the task that says how it is asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from hfpipe.contract import Task
from hfpipe.errors import Problem, RecipeError
from hfpipe.own_code import load_code
from hfpipe.places import Code, Place, locate
from hfpipe.recipe.foreign import instead
from hfpipe.recipe.overrides import choose
from hfpipe.recipe.settings import mistakes
from hfpipe.recipe.words import listed
from hfpipe.results import TRAINED
from hfpipe.store import read_stage
from hfpipe.targets import find_stage, split
from hfpipe.tasks import TASKS, revive_task

BY_HEAD = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
"""How the name of a Transformers class ends → what its models are asked."""


class Trained(NamedTuple):
    """Where a model lies, and what it is asked."""

    place: Path | Place
    task: Task


def find(target: str, runs: Path, kind: str | None, options: Sequence[str]) -> Trained:
    """Return the model meant by a stage's folder, a run or recipe (`:STAGE`), a path, a package or a Hub id.

    Its task is `kind`, or what its stage trained it for, or what its config says; `options` are the task's
    settings as `key=value`. Raises RecipeError when there is no such model, or no telling what to ask it.
    """
    place = _place(target, runs)
    settings, base = _trained_for(place)
    if kind is not None and kind != settings.get("kind"):
        settings = {"kind": kind}
    settings = settings or {"kind": _by_config(place)}
    cls = _class(settings["kind"], base)
    choose(settings, options)
    try:
        return Trained(place, cls.model_validate(settings))
    except ValidationError as error:
        raise RecipeError(mistakes(cls, settings, (), error)) from None


def _place(target: str, runs: Path) -> Path | Place:
    path = Path(target)
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return path
    if Path(split(target)[0]).exists():
        run, stage = find_stage(target, runs, TRAINED, "trained model")
        return run.folder(stage)
    if runs in path.parents:
        raise RecipeError([Problem(f"{target}: is not there; hfpipe run its recipe first")])
    if not re.fullmatch(Place.pattern, target):
        raise RecipeError([Problem(f"{target}: is neither there nor {Place.meant}")])
    return locate(Place(target), Path.cwd(), {}) or Place(target)


def _trained_for(place: Path | Place) -> tuple[dict[str, Any], Path]:
    """Return the settings by which a stage's model is asked, and where its recipe lies."""
    if not isinstance(place, Path) or not (place / "stage.json").is_file():
        return {}, Path.cwd()
    file = read_stage(place)
    base = Path(file.base)
    return revive_task(file.identity.settings["task"], base).asked, base


def _by_config(place: Path | Place) -> str:
    from hfpipe.hf.predicting import architecture

    found = architecture(place)
    for ending, kind in BY_HEAD.items():
        if found.endswith(ending):
            return kind
    wrong = f"{place}: its config ({found or 'no architecture'}) does not say what it was trained for"
    raise RecipeError([Problem(f"{wrong}; add --task {listed(TASKS, 'or')}")])


def _class(kind: str, base: Path) -> type[Task]:
    if re.fullmatch(Code.pattern, kind):
        cls: type[Task] = load_code(Code(kind), base)
        return cls
    if kind not in TASKS:
        raise RecipeError([Problem(f"there is no task {kind!r}{instead(kind, TASKS)}")])
    return TASKS[kind]
