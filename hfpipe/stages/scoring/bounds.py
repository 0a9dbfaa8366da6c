"""Scores in the report of an evaluate stage: comparisons with baselines, missed bounds, omitted scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field, model_validator
from typing_extensions import Self

from hfpipe.advice import advise
from hfpipe.contract import Settings
from hfpipe.errors import Problem
from hfpipe.number_format import format_difference, format_interval, format_p_value
from hfpipe.recipe.document import KeyProblem
from hfpipe.recipe.messages import find_similar_name, suggest
from hfpipe.references.places import BaselinePlace
from hfpipe.report import SIGNIFICANT, Comparison, DataFacts, Score
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    from hfpipe.metrics.tally import Counts
    from hfpipe.stages.evaluate import Evaluate


class Bound(Settings):
    """Conditions on a score for the stage to succeed."""

    min: float | None = None
    """Minimum of the score."""
    max: float | None = None
    """Maximum of the score."""
    beats: BaselinePlace | None = None
    """Baseline that the score must exceed."""
    by: float = Field(default=0.0, ge=0)
    """With `beats`: the difference must be larger than this."""
    p: float = Field(default=SIGNIFICANT, gt=0, lt=1)
    """With `beats`: the p-value of the difference, corrected for the number of baselines, must be lower."""

    @model_validator(mode="after")
    def _check_complete(self) -> Self:
        # A stage's folder holds every setting, with its default.
        stored = self.model_fields_set == type(self).model_fields.keys()
        for name in ("by", "p"):
            if self.beats is None and name in self.model_fields_set and not stored:
                raise ValueError(
                    f"`{name}` needs `beats`, which names the baseline; add it or delete `{name}`"
                )
        return self


def find_unmet_bounds(require: Mapping[str, Bound], scores: Sequence[Score]) -> Iterator[str]:
    """Yield a line for each bound that a score misses."""
    there = {score.metric: score for score in scores}
    for name, bound in require.items():
        score = there.get(name)
        if score is None:
            yield f"require: {name} has no value"
            continue
        if bound.min is not None and score.value < bound.min:
            yield f"require: {name} is {score.value:.4g}, below {bound.min:g}"
        if bound.max is not None and score.value > bound.max:
            yield f"require: {name} is {score.value:.4g}, above {bound.max:g}"
        if bound.beats is not None:
            yield from _explain_not_beaten(score, bound, bound.beats)


def _explain_not_beaten(score: Score, bound: Bound, baseline: BaselinePlace) -> Iterator[str]:
    """Yield a line if a score does not beat a baseline as required."""
    found = next((each for each in score.comparisons if each.baseline == baseline), None)
    if found is None:
        yield f"require: {score.metric} is not compared with {baseline}, which it must beat"
        return
    gain = found.difference if score.higher_is_better else -found.difference
    shown = f"{format_difference(found)}, {format_p_value(found.p_value)}"
    if gain <= bound.by or found.p_value >= bound.p:
        needed = f"by more than {bound.by:g} " if bound.by else ""
        yield f"require: {score.metric} does not beat {baseline} {needed}at p < {bound.p:g} ({shown})"


def check_bounds(require: Mapping[str, Bound], baselines: Sequence[BaselinePlace]) -> Iterator[Problem]:
    """Yield each bound whose baseline is not among those of the stage."""
    for name, bound in require.items():
        if bound.beats is not None and bound.beats not in baselines:
            there = suggest(bound.beats, baselines)
            pasted = advise(baselines=[*map(str, baselines), str(bound.beats)])
            message = f"{str(bound.beats)!r} is not among the baselines{there}; write {pasted}"
            yield Problem(message, ("require", name, "beats"))


def find_unknown_scores(stage: Evaluate, task: TaskConfig, facts: DataFacts) -> Iterator[Problem]:
    """Yield each bound for a score that neither the task nor a metric of the recipe has."""
    from hfpipe.metrics.scores.row_weighted import add_row_weights

    evaluator = task.runtime().evaluator
    names = [metric.name for metric in add_row_weights(evaluator.metrics(facts), stage.row_weights or None)]
    names += [metric.name for metric in evaluator.whole_metrics(facts)]
    prefixes = [metric.prefix for metric in stage.metrics]
    for name in stage.require:
        if name not in names and name.partition("/")[0] not in prefixes:
            close = find_similar_name(name, names)
            there = ", ".join([*names, *(f"{prefix}/…" for prefix in prefixes)])
            fix = f"did you mean {close!r}?" if close else f"there are {there}"
            yield KeyProblem(f"there is no score {name!r} to require; {fix}", ("require", name))


def describe_doubtful_bounds(require: Mapping[str, Bound], scores: Sequence[Score]) -> Iterator[str]:
    """Yield a line for each `min` and `max` that is met or missed without statistical significance."""
    there = {score.metric: score for score in scores}
    for name, bound in require.items():
        score = there.get(name)
        for limit, sign in ((bound.min, 1), (bound.max, -1)):
            if score is not None and limit is not None and score.low < limit < score.high:
                met = "meets" if sign * (score.value - limit) >= 0 else "misses"
                shown = format_interval(score.value, score.low, score.high)
                yield f"{name} {shown} {met} {limit:g} by less than {score.n:,} rows can show"


def compare_score(score: Score, systems: Iterable[Mapping[str, Comparison]]) -> Score:
    """Return the score with its comparisons to the baselines; p-values are corrected for their number."""
    from hfpipe.metrics.paired import add_comparisons

    found = [comparisons[score.metric] for comparisons in systems if score.metric in comparisons]
    return add_comparisons(score, found)


def explain_left_out(
    mine: Counts, tallies: Mapping[BaselinePlace, Counts], comparisons: Mapping[str, Mapping[str, Comparison]]
) -> Iterator[str]:
    """Yield a line for each score that a system lacks, and for each baseline that lacks comparisons."""
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
    shown = [
        f"{score.metric} {score.value:.4g}{_format_spread(score)} [{score.low:.4g}, {score.high:.4g}]"
        for score in scores[:2]
    ]
    return f"{', '.join(shown)} on {rows:,} rows"


def _format_spread(score: Score) -> str:
    return "" if score.spread is None else f" ± {score.spread.sd:.2g}"
