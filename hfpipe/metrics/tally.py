"""Counts every metric in one pass and gives scores, intervals and paired comparisons from the sums.

Each example gets Poisson(1) weights that depend on nothing but the seed and its index (the online
bootstrap of Oza & Russell, 2001; Chamandy et al., 2012). Memory is resamples by statistics however long
the split is, any batching over any processes gives the same sums, and two systems measured on the same
examples are resampled alike, which makes their difference a paired one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from math import exp, factorial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hfpipe.errors import StageError
from hfpipe.metrics.metric import Metric
from hfpipe.report import Comparison, Score

if TYPE_CHECKING:
    from hfpipe.types import Columns

ROWS_AT_ONCE = 2048
"""Examples weighted together: with 1000 resamples their weights take 16 MB."""


class Tally:
    """Running sums of the statistics of some metrics, plain and under every bootstrap resample."""

    def __init__(self, metrics: Sequence[Metric], resamples: int, seed: int) -> None:
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"two metrics have one name: {', '.join(sorted(names))}")
        self.metrics = list(metrics)
        self.resamples = resamples
        self.seed = seed
        self._families: dict[Hashable, Metric] = {metric.family: metric for metric in reversed(self.metrics)}
        self._widths: list[int] | None = None
        self._sums = np.zeros((resamples + 1, 0))
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows_waiting = 0

    def add(self, index: np.ndarray, columns: Columns) -> None:
        """Count some examples, each once: `index` is their place in the split, int64, shape (n,).

        `columns` maps names to arrays with one row an example.
        """
        stats = [np.ones((len(index), 1)), *(metric.stats(columns) for metric in self._families.values())]
        if self._widths is None:
            self._widths = [each.shape[1] for each in stats]
            self._sums = np.zeros((self.resamples + 1, sum(self._widths)))
        self._waiting.append((np.asarray(index), np.concatenate(stats, axis=1)))
        self._rows_waiting += len(index)
        if self._rows_waiting >= ROWS_AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        """Add what waits to the sums; together, for small batches cost four times as much one by one."""
        if not self._waiting:
            return
        index, stats = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        for start in range(0, len(index), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            weights = np.ones((len(index[rows]), self.resamples + 1))
            weights[:, 1:] = poisson(index[rows], self.resamples, self.seed)
            self._sums += weights.T @ stats[rows]
        self._waiting.clear()
        self._rows_waiting = 0

    def arrays(self) -> list[np.ndarray]:
        """Return the float64 sums, to be added up over processes: how many examples, then each family's.

        A process that saw no example must have called `add` with empty columns, which tell the shapes.
        """
        self._settle()
        if self._widths is None:
            raise ValueError("nothing was added yet, not even empty columns: the shapes are not known")
        return np.split(self._sums, np.cumsum(self._widths)[:-1], axis=1)

    def merged(self, arrays: Sequence[np.ndarray]) -> Tally:
        """Return a tally of the same metrics that holds `arrays`, as added up over processes."""
        tally = Tally(self.metrics, self.resamples, self.seed)
        tally._widths = [each.shape[1] for each in arrays]
        tally._sums = np.concatenate(list(arrays), axis=1)
        return tally

    @property
    def n(self) -> int:
        """How many examples were counted."""
        return 0 if self._widths is None else round(self.arrays()[0][0, 0])

    def values(self, metric: Metric) -> np.ndarray:
        """Return a metric's score over all examples, then over each resample: shape (resamples + 1,).

        Resamples that drew no example at all (likely only below ten examples) are NaN.
        Raises StageError when nothing was counted or the score is not a finite number.
        """
        if self.n == 0:
            raise StageError(f"{metric.name}: no example was counted; the split is empty")
        counts, mine = self.arrays()[0], self._sums_of(metric)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            values = np.where(counts[:, 0] > 0, metric.value(mine), np.nan)
        if not np.isfinite(values[0]):
            raise StageError(f"{metric.name} is {values[0]}: the model's outputs are not finite numbers")
        return values

    def _sums_of(self, metric: Metric) -> np.ndarray:
        return self.arrays()[1 + list(self._families).index(metric.family)]

    def series(self, metric: Metric) -> Series:
        """Return a metric's score over all examples and every resample, with what defines it."""
        values, units = self.values(metric), metric.units(self._sums_of(metric)[0])
        better, signature = metric.higher_is_better, metric.signature
        return Series(metric.name, values, self.n, better, signature, self.seed, units)

    def undefined(self) -> dict[str, str]:
        """Return the names of the metrics that have no score here, and why."""
        found = {metric.name: metric.undefined(self._sums_of(metric)[0]) for metric in self.metrics}
        return {name: why for name, why in found.items() if why is not None}

    @property
    def defined(self) -> list[Metric]:
        """The metrics that have a score here."""
        without = self.undefined()
        return [metric for metric in self.metrics if metric.name not in without]

    def scores(self, confidence: float = 0.95) -> list[Score]:
        """Return the score of each defined metric with its percentile interval, in the metrics' order."""
        return [score_tally(self.series(metric), confidence) for metric in self.defined]


class Series(NamedTuple):
    """One score over all examples and over each resample."""

    name: str
    values: np.ndarray
    """Shape (resamples + 1,), all examples first; NaN where a resample has no value."""
    n: int
    """Number of examples."""
    higher_is_better: bool
    signature: str
    """What defines the number; the interval and the version are added to it."""
    seed: int
    units: float | None = None
    """How many units of the system's own the score is an average of, as `Metric.units` says."""


def score_tally(series: Series, confidence: float = 0.95) -> Score:
    """Return a score with its percentile interval."""
    low, high = percentile_interval(series.values[1:], confidence)
    resamples = len(series.values) - 1
    how = f"interval:poisson-percentile-{confidence:.0%}|resamples:{resamples}|seed:{series.seed}"
    return Score(
        metric=series.name,
        value=float(series.values[0]),
        low=low,
        high=high,
        n=series.n,
        higher_is_better=series.higher_is_better,
        signature=f"{series.signature}|{how}|hfpipe:{version('hfpipe')}",
    )


def compare_tallies(mine: Tally, other: Tally, name: str, confidence: float = 0.95) -> dict[str, Comparison]:
    """Return metric → difference between two systems on the same examples, for the metrics of both.

    Averages over tokens are left out where the two cut the text into other numbers of them.

    The paired bootstrap (Koehn, 2004): both systems are scored on the same resamples, the interval of
    the difference is theirs by percentile. Its two-sided p is the share of resampled differences that
    lie at least as far from the measured one as that lies from 0, the distribution under no difference
    being the resampled one moved to 0 (Berg-Kirkpatrick et al., 2012). One is added to both counts, so
    that p is never 0 (Davison & Hinkley, 1997, section 4.2).

    Raises StageError when the two differ in the number of examples, the resamples or the seed.
    """
    for what in ("n", "resamples", "seed"):
        ours, theirs = getattr(mine, what), getattr(other, what)
        if ours != theirs:
            raise StageError(f"{name}: cannot be compared, its {what} is {theirs} and the model's is {ours}")
    theirs_of = {metric.name: other.series(metric) for metric in other.defined}
    found = {}
    for metric in mine.defined:
        series = mine.series(metric)
        if metric.name in theirs_of and theirs_of[metric.name].units == series.units:
            found[metric.name] = compare_systems(
                series.values, theirs_of[metric.name].values, name, confidence
            )
    return found


def compare_systems(mine: np.ndarray, other: np.ndarray, name: str, confidence: float = 0.95) -> Comparison:
    """Return the difference between two systems from their values over the same resamples."""
    differences = mine - other
    measured, resampled = differences[0], differences[1:][np.isfinite(differences[1:])]
    # Rounding makes equal systems differ by 1e-16; without the slack that would pass for an effect.
    extreme = np.abs(resampled - measured) >= np.abs(measured) - 1e-12
    low, high = percentile_interval(other[1:], confidence)
    difference_low, difference_high = percentile_interval(resampled, confidence)
    return Comparison(
        baseline=name,
        value=float(other[0]),
        low=low,
        high=high,
        difference=float(measured),
        difference_low=difference_low,
        difference_high=difference_high,
        p_value=float((extreme.sum() + 1) / (len(resampled) + 1)),
    )


def percentile_interval(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of resampled scores (Efron, 1981), without those that are NaN.

    Both ends are NaN where every resample is, as when a score needs a row that few resamples hold.
    """
    tail = (1 - confidence) / 2
    there = resampled[np.isfinite(resampled)]
    if not len(there):
        return math.nan, math.nan
    low, high = np.quantile(there, [tail, 1 - tail])
    return float(low), float(high)


def poisson(index: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the Poisson(1) bootstrap weights of some examples: uint8, shape (n, resamples).

    A row is a pure function of the seed and the example's index: stretch `index` of the Philox counter,
    16 bits a weight, so that probabilities are exact to 2⁻¹⁶; more resamples append to the row.
    """
    if resamples == 0:
        return np.empty((len(index), 0), dtype=np.uint8)
    words = -(-resamples // 4)
    raw = np.fromiter(_words(index, words, seed), dtype=np.dtype((np.uint64, words)), count=len(index))
    return _inverse_poisson()[raw.astype("<u8").view("<u2")[:, :resamples]]


def _words(index: np.ndarray, words: int, seed: int) -> Iterator[np.ndarray]:
    # Setting the counter is nine times as fast as a generator for each example.
    philox = np.random.Philox(key=seed)
    state = philox.state
    for number in index.tolist():
        state["state"]["counter"][1] = number
        philox.state = state
        yield philox.random_raw(words)


@cache
def _inverse_poisson() -> np.ndarray:
    """Return the quantiles of Poisson(1) at (i + ½) / 2¹⁶: uint8, shape (65536,)."""
    cumulative = np.cumsum([exp(-1) / factorial(k) for k in range(20)])
    return np.searchsorted(cumulative, (np.arange(2**16) + 0.5) / 2**16).astype(np.uint8)
