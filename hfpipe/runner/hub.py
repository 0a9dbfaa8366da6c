"""Checks, before anything starts, that what stages load from the Hub is cached or can be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hfpipe.contract import Stage
from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe import Recipe
from hfpipe.recipe.messages import Keys
from hfpipe.references import hub
from hfpipe.references.places import MetricPlace, Place, collect


def check_hub(recipe: Recipe, stages: Mapping[str, Stage]) -> None:
    """Raise RecipeError, within seconds, when a stage needs what is neither cached nor can be reached."""
    wanted = [
        (name, path)
        for stage, each in stages.items()
        for name, path in _missing_of_stage(each, ("stages", stage))
    ]
    if not wanted or hub.offline() or (cause := hub.unreachable()) is None:
        return
    raise RecipeError(
        [recipe.document.place(Problem(missing_from_cache(name, cause), path)) for name, path in wanted]
    )


def missing_from_cache(name: str, cause: str) -> str:
    """Return the message that something on the Hub cannot be loaded."""
    return (
        f"{name} is on the Hub, which cannot be reached ({cause}), and no copy of it is here; "
        "connect to the network, or name a local path as ./path"
    )


def _missing_of_stage(stage: Stage, at: Keys) -> Iterator[tuple[str, Keys]]:
    """Yield what a stage takes from the Hub and the cache does not hold."""
    for path, place in collect(stage, Place):
        if place.hub is not None:
            name, revision = place.hub
            if not (
                hub.cached_metric(name) if isinstance(place, MetricPlace) else hub.cached(name, revision)
            ):
                yield str(place), (*at, *path)
    source = getattr(stage, "source", None)
    data: Any = getattr(source, "hub", None)
    if data is not None and not hub.cached(data, getattr(source, "revision", None), "dataset"):
        yield data, (*at, "source", "hub")
