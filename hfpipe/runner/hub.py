"""Checks, before anything starts, that what stages load from the Hub is cached or reachable."""

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
    """Raise RecipeError, within seconds, if something that a stage needs is neither cached nor reachable."""
    wanted = [
        (name, path)
        for stage, each in stages.items()
        for name, path in _find_missing(each, ("stages", stage))
    ]
    if not wanted or hub.is_offline() or (cause := hub.explain_unreachable()) is None:
        return
    raise RecipeError(
        [
            recipe.document.locate_problem(Problem(describe_unreachable(name, cause), path))
            for name, path in wanted
        ]
    )


def describe_unreachable(name: str, cause: str) -> str:
    """Return the message about something that cannot be loaded from the Hub."""
    return (
        f"{name} is on the Hub, which cannot be reached ({cause}), and is not cached; "
        "connect to the network, or name a local path as ./path"
    )


def _find_missing(stage: Stage, at: Keys) -> Iterator[tuple[str, Keys]]:
    """Yield the references of a stage to the Hub that are not cached."""
    for path, place in collect(stage, Place):
        if place.hub is not None:
            name, revision = place.hub
            if not (
                hub.is_metric_cached(name)
                if isinstance(place, MetricPlace)
                else hub.is_cached(name, revision)
            ):
                yield str(place), (*at, *path)
    source = getattr(stage, "source", None)
    data: Any = getattr(source, "hub", None)
    if data is not None and not hub.is_cached(data, getattr(source, "revision", None), "dataset"):
        yield data, (*at, "source", "hub")
