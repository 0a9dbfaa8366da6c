"""Sets, reads and checks the settings of a stage that a search varies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from hfpipe.advice import advise
from hfpipe.contract import RunContext, Stage
from hfpipe.errors import Problem, StageError
from hfpipe.recipe.document import KeyProblem
from hfpipe.recipe.messages import find_similar_name, join_names, suggest
from hfpipe.recipe.model import find_model_problems
from hfpipe.recipe.training.arguments import find_training_problems
from hfpipe.references.places import Place
from hfpipe.report import DataFacts
from hfpipe.stages import artifacts
from hfpipe.stages.repeats.settings import Search
from hfpipe.store.store import check_file, report_unreadable

if TYPE_CHECKING:
    from hfpipe.stages.train import TrainStage

BEST = "best.json"
"""File of a search with the settings of the best trial."""
PARTS = ("training", "task", "model", "adapter")
"""Settings of a training stage that a search can vary."""

S = TypeVar("S", bound=Stage)


def replace_parameters(stage: S, parameters: Mapping[str, Any]) -> S:
    """Return a stage with some settings, given as `training.learning_rate`, replaced."""
    update: dict[str, Any] = {}
    for name, value in parameters.items():
        part, _, key = name.partition(".")
        old = update.get(part, getattr(stage, part))
        if isinstance(old, BaseModel):
            update[part] = type(old).model_validate({**old.model_dump(), key: value})
        else:
            update[part] = {**old, key: value}
    return stage.model_copy(update=update)


def read_best(place: Place, ctx: RunContext) -> dict[str, Any]:
    """Return the settings of the best trial of a search. Raises StageError if there are none."""
    folder = ctx.inputs[place.stage or ""]
    path = folder / BEST
    if not path.is_file():
        raise StageError(f"stage {ctx.name}: {place} is not a search; write stage:NAME@search")
    check_file(path)
    with report_unreadable(path):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["parameters"]
    return found


def check_search(
    stage: TrainStage, search: Search, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]
) -> Iterator[Problem]:
    """Yield problems that would stop a search at its start or later."""
    from hfpipe.stages.checks.training import check_validation_score

    if find_spec("optuna") is None:
        message = "search needs optuna, which is not installed; pip install 'hfpipe[search]'"
        yield Problem(message, ("search",))
    splits = artifacts.get_splits(stage.data, above, facts)
    if splits is not None and "validation" not in splits:
        message = f"search needs a validation split, and {stage.data} has only {join_names(sorted(splits))}"
        yield Problem(f"{message}; add {advise(split={'validation': 0.1})} to that stage", ("search",))
    yield from check_validation_score(stage, search.metric, ("search", "metric"), facts)
    for name, values in search.parameters.items():
        if (unknown := _describe_unknown(stage, name)) is not None:
            yield KeyProblem(unknown, ("search", "parameters", name))
            continue
        for message in dict.fromkeys(_check_values(stage, name, values.ends)):
            yield KeyProblem(message, ("search", "parameters", name))


def _describe_unknown(stage: TrainStage, name: str) -> str | None:
    """Return why a setting of a stage cannot be searched, None if it can."""
    part, _, key = name.partition(".")
    if part not in PARTS or not key:
        known = "training.learning_rate, task.length, model.hidden_size or adapter.r"
        close = find_similar_name(part, PARTS) if key else None
        fix = f"did you mean '{close}.{key}'?" if close else f"write a setting such as {known}"
        return f"{name!r} cannot be searched; {fix}"
    old = getattr(stage, part)
    if not isinstance(old, BaseModel | Mapping):
        return f"{name!r} cannot be searched: this stage has no {part} of its own"
    if isinstance(old, BaseModel) and (key not in type(old).model_fields or key == "kind"):
        return f"unknown key {key!r} in {part}{suggest(key, type(old).model_fields)}"
    return None


def _check_values(stage: TrainStage, name: str, values: list[Any]) -> Iterator[str]:
    """Yield problems with the values of a setting."""
    part, _, key = name.partition(".")
    old = getattr(stage, part)
    if isinstance(old, BaseModel):
        for value in values:
            try:
                type(old).model_validate({**old.model_dump(), key: value})
            except ValidationError as error:
                yield f"{name}: {error.errors()[0]['msg']}, with {value!r}"
    else:
        check = find_training_problems if part == "training" else find_model_problems
        for value in values:
            yield from (problem.message for problem in check({**old, key: value}, (part,)))
