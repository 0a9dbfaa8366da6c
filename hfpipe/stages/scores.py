"""What an evaluate stage reports: scores with those of the baselines, bounds missed, and what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hfpipe.contract import Settings
from hfpipe.references.places import BaselinePlace
from hfpipe.report import Comparison, Score

if TYPE_CHECKING:
    from hfpipe.metrics.tally import Tally


class Bound(Settings):
    """What a score must reach for the stage to succeed."""

    min: float | None = None
    """The score may not be lower."""
    max: float | None = None
    """The score may not be higher."""


def unmet_bounds(require: Mapping[str, Bound], scores: Sequence[Score]) -> Iterator[str]:
    """Yield a line for each bound that a score misses."""
    there = {score.metric: score.value for score in scores}
    for name, bound in require.items():
        value = there.get(name)
        if value is None:
            yield f"require: {name} has no value"
            continue
        if bound.min is not None and value < bound.min:
            yield f"require: {name} is {value:.4g}, below {bound.min:g}"
        if bound.max is not None and value > bound.max:
            yield f"require: {name} is {value:.4g}, above {bound.max:g}"


def with_comparisons(score: Score, systems: Iterable[Mapping[str, Comparison]]) -> Score:
    """Return the score with what each baseline has of it."""
    found = [comparisons[score.metric] for comparisons in systems if score.metric in comparisons]
    return score.model_copy(update={"comparisons": found})


def explain_left_out(
    mine: Tally, tallies: Mapping[BaselinePlace, Tally], comparisons: Mapping[str, Mapping[str, Comparison]]
) -> Iterator[str]:
    """Yield a line for each score that a system lacks, and for each baseline that is not compared by some."""
    yield from (f"{score} is left out: {why}" for score, why in mine.undefined().items())
    for name, tally in tallies.items():
        theirs = {score: why for score, why in tally.undefined().items() if score not in mine.undefined()}
        yield from (f"{score} of {name} is left out: {why}" for score, why in theirs.items())
        shared = {metric.name for metric in mine.defined} & {metric.name for metric in tally.defined}
        lacking = sorted(shared - comparisons[name].keys())
        if lacking:
            yield f"{name} counts other tokens, and is not compared by {', '.join(lacking)}"


def summarize(scores: list[Score], rows: int) -> str:
    """Return the first two scores as one line."""
    shown = [f"{score.metric} {score.value:.4g} [{score.low:.4g}, {score.high:.4g}]" for score in scores[:2]]
    return f"{', '.join(shown)} on {rows:,} rows"
