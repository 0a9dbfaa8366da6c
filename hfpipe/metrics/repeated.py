"""Scores of a model that was trained several times: their mean, and the components of their variance.

Every training is measured on the same rows under the same weights. The score of training j is modelled as y_j
= μ + rows + seed_j + (rows × seed)_j, a random-effects model with crossed factors (Searle, Casella &
McCulloch, 1992, section 4.5; for scores of models Bouthillier et al., 2021, arXiv 2103.03098). The bootstrap
over rows estimates the row variance of each score and of each deviation from the mean; the remaining variance
of the deviations is due to the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit  # Student's t, without the second that scipy.stats takes to load

from hfpipe.metrics.paired_tests import PairedTest
from hfpipe.metrics.series import Series
from hfpipe.report import Spread

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.metrics.tally import Counts, Tally


class Ends(NamedTuple):
    """The two ends of an interval."""

    low: float
    high: float


class Components(NamedTuple):
    """Standard deviations of the score of one training."""

    rows: float
    """Due to the sampling of rows."""
    seeds: float
    """Due to the seed; 0 if the rows explain all differences of the scores."""
    total: float
    """Of the measured scores."""


@dataclass(frozen=True)
class RepeatedCounts:
    """The counts of several trainings of one system on the same rows; its scores are their means."""

    members: Mapping[str, Counts]
    """Stage of each training → its counts."""

    @property
    def _first(self) -> Counts:
        return next(iter(self.members.values()))

    @property
    def n(self) -> int:
        """Number of examples, the same for each training."""
        return self._first.n

    @property
    def resamples(self) -> int:
        """Number of bootstrap resamples."""
        return self._first.resamples

    @property
    def seed(self) -> int:
        """Seed of the resamples."""
        return self._first.seed

    @property
    def defined(self) -> list[Metric]:
        """The metrics that have a score for each training."""
        without = self.undefined()
        return [metric for metric in self._first.defined if metric.name not in without]

    def undefined(self) -> dict[str, str]:
        """Return the names of the metrics that lack a score for some training, and why."""
        found: dict[str, str] = {}
        for counts in self.members.values():
            found = {**counts.undefined(), **found}
        return found

    def series(self, metric: Metric) -> Series:
        """Return the mean of a metric's score over the trainings."""
        found = {}
        for name, counts in self.members.items():
            own = next(each for each in counts.defined if each.name == metric.name)
            found[name] = counts.series(own)
        return average_series(found)


@dataclass(frozen=True)
class FoldedCounts:
    """The counts of all rows, each predicted by the training without its fold, and the counts per fold."""

    pooled: Tally
    members: Mapping[str, Tally]
    """Stage of each training → the counts of its held-out rows."""

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.pooled.n

    @property
    def resamples(self) -> int:
        """Number of bootstrap resamples."""
        return self.pooled.resamples

    @property
    def seed(self) -> int:
        """Seed of the resamples."""
        return self.pooled.seed

    @property
    def defined(self) -> list[Metric]:
        """The metrics that have a score over all rows."""
        return self.pooled.defined

    def undefined(self) -> dict[str, str]:
        """Return the names of the metrics that have no score over all rows, and why."""
        return self.pooled.undefined()

    def series(self, metric: Metric) -> Series:
        """Return a metric's score over all rows, with the score of each fold if all have one."""
        lacking = [name for name, tally in self.members.items() if metric.name in tally.undefined()]
        by_fold = (
            {} if lacking else {name: _compute_score(tally, metric) for name, tally in self.members.items()}
        )
        return replace(self.pooled.series(metric), by_fold=by_fold)


def _compute_score(tally: Tally, metric: Metric) -> float:
    own = next(each for each in tally.metrics if each.name == metric.name)
    return float(tally.compute_values(own)[0])


def pool_folds(members: Mapping[str, Tally]) -> FoldedCounts:
    """Return the counts of several folds, which contain each row once, and of all rows."""
    arrays = zip(*(tally.get_arrays() for tally in members.values()), strict=True)
    pooled = next(iter(members.values())).merge(
        [np.sum(parts, axis=0, dtype=parts[0].dtype) for parts in arrays]
    )
    return FoldedCounts(pooled, members)


def average_series(members: Mapping[str, Series]) -> Series:
    """Return the mean of one score over several trainings, under each weighting of the rows."""
    found = list(members.values())
    return replace(
        found[0],
        values=np.mean([series.values for series in found], axis=0),
        blocks=np.mean([series.blocks for series in found], axis=0),
        evidence=min(series.evidence for series in found),
        proportion=None,
        outcomes=None,
        exchange=None,
        members=dict(members),
    )


def average_scores(systems: Mapping[str, Sequence[Series]]) -> Iterator[Series]:
    """Yield the mean of every score that all trainings have, in the order of the first."""
    named = {name: {series.name: series for series in found} for name, found in systems.items()}
    for metric in next(iter(named.values())):
        if all(metric in found for found in named.values()):
            yield average_series({name: found[metric] for name, found in named.items()})


def split_variance(members: Sequence[Series]) -> Components:
    """Split the variance of the scores of several trainings, as the module's docstring describes.

    The component of the seeds is unbiased before it is clipped at 0, as in an analysis of variance.
    """
    values = np.array([series.values for series in members])
    scores, resampled = values[:, 0], values[:, 1:][:, np.isfinite(values[:, 1:]).all(axis=0)]
    count, units = len(scores), members[0].units
    # Resamples of few units vary less than samples do.
    factor = units / (units - 1) if units > 1 else 1.0
    between = float(scores.var(ddof=1))
    if resampled.shape[1] < 2:
        return Components(0.0, math.sqrt(between), math.sqrt(between))
    rows = factor * float(resampled.var(axis=1, ddof=1).mean())
    deviations = resampled - resampled.mean(axis=0)
    shared = factor * float(deviations.var(axis=1, ddof=1).mean()) * count / (count - 1)
    return Components(math.sqrt(rows), math.sqrt(max(0.0, between - shared)), math.sqrt(between))


def measure_spread(series: Series) -> Spread | None:
    """Return the spread of a score over trainings, None for a single training."""
    if series.by_fold:
        sd = float(np.std(list(series.by_fold.values()), ddof=1))
        return Spread(over="folds", values=dict(series.by_fold), sd=sd)
    if not series.members:
        return None
    found = split_variance(list(series.members.values()))
    values = {name: float(each.values[0]) for name, each in series.members.items()}
    return Spread(over="seeds", values=values, sd=found.total, rows=found.rows, seeds=found.seeds)


def widen_interval(
    low: float, high: float, systems: Sequence[Series], confidence: float, value: float | None = None
) -> Ends:
    """Return the interval of a mean over trainings, given the interval for the sampling of rows.

    The interval for rows and the t interval for the seeds of each system are combined by the method of
    variance estimates recovery (MOVER; Zou & Donner, 2008), which preserves their skewness. The default of
    `value` is the score of the only system.
    """
    center = float(systems[0].values[0]) if value is None else value
    halves = [stdtrit(df, (1 + confidence) / 2) * se for se, df in map(_compute_seed_error, systems) if df]
    bounds = systems[0].bounds if value is None else (None, None)
    lower = center - math.hypot(center - low, *halves)
    upper = center + math.hypot(high - center, *halves)
    if not halves:
        return Ends(low, high)
    lower = lower if bounds[0] is None else max(lower, bounds[0])
    upper = upper if bounds[1] is None else min(upper, bounds[1])
    return Ends(lower, upper)


def _compute_seed_error(series: Series) -> tuple[float, int]:
    """Return the standard error of a mean due to the seeds and its degrees of freedom; 0 for one training."""
    count = len(series.members)
    if count < 2:
        return 0.0, 0
    return split_variance(list(series.members.values())).seeds / math.sqrt(count), count - 1


def run_seeds_test(mine: Series, other: Series) -> PairedTest:
    """Test the difference of two systems, of which at least one was trained several times.

    The p-value is the level at which the MOVER interval of the difference (see `widen_interval`) ends at 0,
    with Student's t also for the rows, whose variance is estimated from the paired resamples.
    """
    differences = mine.values - other.values
    resampled = differences[1:][np.isfinite(differences[1:])]
    units = mine.units
    rows = float(resampled.var(ddof=1)) * units / (units - 1) if len(resampled) > 1 and units > 1 else 0.0
    parts = [(math.sqrt(rows), units - 1), *map(_compute_seed_error, (mine, other))]
    known = [(error, df) for error, df in parts if error > 0 and df > 0]
    return PairedTest("rows-seeds-t", _find_level(abs(float(differences[0])), known))


def _find_level(difference: float, parts: Sequence[tuple[float, int]]) -> float:
    """Return the two-sided level at which the combined half-width of several errors equals a difference."""
    if not parts:
        return 1.0 if difference == 0 else 0.0

    def excess(level: float) -> float:
        return math.hypot(*(-stdtrit(df, level / 2) * error for error, df in parts)) - difference

    least = 1e-12
    if difference == 0:
        return 1.0
    return float(brentq(excess, least, 1.0, xtol=least)) if excess(least) > 0 else least
