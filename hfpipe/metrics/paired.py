"""Scores with their intervals, and comparisons of systems on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

from hfpipe.metrics.intervals import compute_difference_interval, compute_interval, count_paired_outcomes
from hfpipe.metrics.paired_tests import (
    PairedTest,
    correct_by_holm,
    run_bootstrap_test,
    run_mcnemar_test,
    run_randomization_test,
)
from hfpipe.metrics.repeated import measure_spread, run_seeds_test, widen_interval
from hfpipe.metrics.series import Series
from hfpipe.report import Comparison, Score


def score_series(series: Series, confidence: float = 0.95) -> Score:
    """Return a score with its interval, which covers rows and seeds for a mean over trainings."""
    found = compute_interval(series, confidence)
    how = f"interval:{found.method}-{confidence:.0%}|{series.resampling}"
    if series.members:
        found = found._replace(**widen_interval(found.low, found.high, [series], confidence)._asdict())
        how = f"{how}|mean-of:{len(series.members)}|seeds:mover-t"
    return Score(
        metric=series.name,
        value=float(series.values[0]),
        low=found.low,
        high=found.high,
        n=series.n,
        higher_is_better=series.higher_is_better,
        signature=f"{series.signature}|{how}|hfpipe:{version('hfpipe')}",
        spread=measure_spread(series),
    )


def compare_series(mine: Series, other: Series, name: str, confidence: float = 0.95) -> Comparison:
    """Return the difference between two systems measured on the same rows; p is not corrected."""
    difference = float(mine.values[0] - other.values[0])
    own = score_series(other, confidence)
    low, high = compute_difference_interval(mine, other, confidence)
    low, high = widen_interval(low, high, [mine, other], confidence, value=difference)
    resampled = run_bootstrap_test(difference, (mine.values - other.values)[1:])
    test = _test(mine, other, difference) or resampled
    return Comparison(
        baseline=name,
        value=float(other.values[0]),
        low=own.low,
        high=own.high,
        difference=difference,
        difference_low=low,
        difference_high=high,
        p_value=test.p_value,
        test=test.name,
        p_bootstrap=resampled.p_value,
        spread=own.spread,
    )


def _test(mine: Series, other: Series, difference: float) -> PairedTest | None:
    """Return McNemar's test for independent trials, otherwise a randomization test; None without either.

    If a system was trained several times, the test covers rows and seeds.
    """
    if mine.members or other.members:
        return run_seeds_test(mine, other)
    pair = count_paired_outcomes(mine, other)
    if pair is not None:
        return run_mcnemar_test(pair[0], pair[1])
    if mine.exchange is None or other.exchange is None or mine.signature != other.signature:
        return None
    swapped = mine.exchange.differences(other.exchange)
    return None if swapped is None else run_randomization_test(difference, swapped)


def add_comparisons(score: Score, comparisons: Sequence[Comparison]) -> Score:
    """Return a score with its comparisons to other systems; p-values are corrected by Holm's procedure."""
    if not comparisons:
        return score
    p_values = correct_by_holm([comparison.p_value for comparison in comparisons])
    found = [c.model_copy(update={"p_value": p}) for c, p in zip(comparisons, p_values, strict=True)]
    tests = "+".join(dict.fromkeys(comparison.test for comparison in comparisons))
    signature = f"{score.signature}|test:{tests}|p:holm-{len(found)}"
    return score.model_copy(update={"comparisons": found, "signature": signature})


def score_with_comparisons(series: Series, others: Mapping[str, Series]) -> Score:
    """Return a score with comparisons to other systems on the same rows."""
    return add_comparisons(
        score_series(series), [compare_series(series, other, name) for name, other in others.items()]
    )
