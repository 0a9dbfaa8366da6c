"""Expands a training stage with `seeds` or `folds` to one stage per training and one that summarizes.

`topics` with `seeds: [1, 2]` becomes the stages `topics@1` and `topics@2`, each an ordinary training with its
own seed, and `topics`, which reads them and reports mean and standard deviation. Each has a key and a folder,
so that it is resumed, reused and verified like any stage; an added seed trains only one model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from hfpipe.contract import Stage
from hfpipe.errors import Problem
from hfpipe.recipe.messages import join_names
from hfpipe.references.places import ModelPlace, Place
from hfpipe.report import DataFacts
from hfpipe.stages.repeats.group import RepeatedTraining
from hfpipe.stages.repeats.search import ParameterSearch
from hfpipe.stages.repeats.settings import Search, SearchPlace
from hfpipe.store.stage_names import MARK

if TYPE_CHECKING:
    from hfpipe.stages.repeats.settings import Repeatable
    from hfpipe.stages.train import TrainStage


def expand_repeats(stage: Repeatable, name: str, above: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return the stages that a training stage expands to, in the order in which they run."""
    folds = stage.fold_settings
    members: dict[str, Stage] = {}
    searched: dict[str, Stage] = {}
    if isinstance(stage.search, Search):
        trained = stage.model_copy(update={"search": None, "seeds": None, "folds": None, "fold": None})
        task = getattr(stage, "task", None)
        searched[f"{name}{MARK}search"] = ParameterSearch.model_validate(
            {"search": stage.search, "task": task, "trained": trained}
        )
        stage = stage.model_copy(update={"search": SearchPlace(f"stage:{name}{MARK}search")})
    for seed in stage.seeds or ():
        update = {"seeds": None, "seed": seed, **_pair_seeds(stage, seed, above)}
        members[f"{name}{MARK}{seed}"] = stage.model_copy(update=update)
    for fold in range(1, folds.k + 1) if folds is not None and stage.fold is None else ():
        members[f"{name}{MARK}fold{fold}"] = stage.model_copy(update={"fold": fold})
    return {**searched, **members, name: _group(stage, members) if members else stage}


def _group(stage: Repeatable, members: Mapping[str, Stage]) -> Stage:
    known = RepeatedTraining.model_fields.keys() & type(stage).model_fields
    settings = {field: getattr(stage, field) for field in known}
    places = {member: ModelPlace(f"stage:{member}") for member in members}
    return RepeatedTraining.model_validate({**settings, "members": places})


def _pair_seeds(stage: Repeatable, seed: int, above: Mapping[str, Stage]) -> dict[str, Any]:
    """Return model and tokenizer of a training, from stages above with the same seed."""
    found: dict[str, Any] = {}
    for field in ("model", "tokenizer"):
        place = getattr(stage, field)
        trained = above.get(place.stage or "") if isinstance(place, Place) else None
        if isinstance(trained, RepeatedTraining) and seed in (trained.seeds or ()):
            found[field] = type(place)(f"{place}{MARK}{seed}")
    return found


def check_repeats(
    stage: TrainStage, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]
) -> Iterator[Problem]:
    """Yield each reference to a repeated stage where one model is needed, and a missing column of groups."""
    from hfpipe.stages import artifacts
    from hfpipe.stages.repeats.folds import check_folds

    yield from check_folds(stage, artifacts.get_columns(stage.data, above, facts))
    made = above.get(stage.search.stage or "") if isinstance(stage.search, SearchPlace) else None
    if made is not None and not isinstance(made, ParameterSearch):
        searched = [f"stage:{name}" for name, each in above.items() if isinstance(each, ParameterSearch)]
        fix = f"write {join_names(searched, 'or')}" if searched else "no stage above has one"
        yield Problem(f"{stage.search} is not a search; {fix}", ("search",))
    yield from check_single(stage, above)


def check_single(stage: Stage, above: Mapping[str, Stage]) -> Iterator[Problem]:
    """Yield each reference to a stage that was trained several times, where one model is needed."""
    named = {field: getattr(stage, field, None) for field in ("model", "tokenizer", "teacher")}
    places = [(field, each) for field, value in named.items() for each in _to_list(value)]
    for field, place in places:
        trained = above.get(place.stage or "") if isinstance(place, Place) else None
        if isinstance(trained, RepeatedTraining):
            names = join_names([f"stage:{member}" for member in trained.members], "or")
            message = f"{place} is trained {len(trained.members)} times; name one training: {names}"
            repeats = "seeds" in type(stage).model_fields and trained.seeds
            same = f", or give this stage the same seeds: {list(trained.seeds or ())}" if repeats else ""
            yield Problem(message + same, (field,))


def _to_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
