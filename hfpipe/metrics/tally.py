"""Accumulates all metrics in one pass, and computes scores, intervals and paired comparisons from the sums.

Each example gets weights that depend only on the seed and the index of its unit: Poisson(1) weights for the
bootstrap (the online bootstrap of Oza & Russell, 2001; Chamandy et al., 2012), fair coins for the
randomization test, and a block for the jackknife. Memory is weights times statistics, independent of the
length of the split. Any distribution over batches and processes gives the same sums. Two systems measured on
the same examples have the same weights, so that comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from hfpipe.errors import StageError
from hfpipe.metrics.metric import ROW_WEIGHT, Metric
from hfpipe.metrics.paired import compare_series, score_series
from hfpipe.metrics.resampling import Sample, draw_weights, sample_independent_rows
from hfpipe.metrics.series import Proportion, Series

if TYPE_CHECKING:
    from hfpipe.report import Comparison, Score
    from hfpipe.types import Columns

ROWS_AT_ONCE = 2048
"""Number of examples weighted together: with 1000 resamples their weights take 34 MB."""
NO_TRIAL, FAILURE, SUCCESS, SEVERAL = 0, 1, 2, 3
"""Outcome of an example in a proportion; `SEVERAL` means anything other than one trial or none."""


class Counts(Protocol):
    """The counts of a system: a `Tally`, or the tallies of several trainings."""

    @property
    def resamples(self) -> int:
        """Number of bootstrap resamples."""

    @property
    def seed(self) -> int:
        """Seed of the resamples."""

    @property
    def n(self) -> int:
        """Number of examples."""

    @property
    def defined(self) -> list[Metric]:
        """The metrics that have a score here."""

    def undefined(self) -> dict[str, str]:
        """Return the names of the metrics that have no score here, and why."""

    def series(self, metric: Metric) -> Series:
        """Return a metric's score over all examples and every resample, with what defines it."""


class Tally:
    """Running sums of the statistics of some metrics, unweighted and under every weighting.

    `sample` gives the dependent rows; without it, rows are independent, and outcomes of single rows, which
    McNemar's test needs, are not stored.
    """

    def __init__(
        self, metrics: Sequence[Metric], resamples: int, seed: int, sample: Sample | None = None
    ) -> None:
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"two metrics have one name: {', '.join(sorted(names))}")
        self.metrics = list(metrics)
        self.resamples = resamples
        self.seed = seed
        self.sample = sample
        self._families: dict[Hashable, Metric] = {metric.family: metric for metric in reversed(self.metrics)}
        self._proportions = [metric for metric in self.metrics if metric.is_proportion]
        self._widths: list[int] | None = None
        self._sums = np.zeros((0, 0))
        kept = len(sample.units) if sample is not None and not sample.grouped else 0
        self._outcomes = np.zeros((kept, len(self._proportions)), dtype=np.uint8)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows_waiting = 0

    def add(self, index: np.ndarray, columns: Columns) -> None:
        """Add examples, each once: `index` is their position in the sample, int64, shape (n,).

        `columns` maps names to arrays with one row per example.
        """
        if self.sample is not None and self.sample.weights is not None:
            columns = {**columns, ROW_WEIGHT: self.sample.weights.values[index]}
        stats = {family: metric.stats(columns) for family, metric in self._families.items()}
        outcomes = np.zeros((len(index), len(self._proportions)), dtype=np.uint8)
        for number, metric in enumerate(self._proportions):
            outcomes[:, number] = _compute_outcomes(metric, stats[metric.family])
        if len(self._outcomes):
            self._outcomes[index] = outcomes
        parts = [np.ones((len(index), 1)), outcomes == SEVERAL, *stats.values()]
        if self._widths is None:
            self._widths = [each.shape[1] for each in parts]
        units = np.asarray(index) if self.sample is None else self.sample.units[index]
        self._waiting.append((units, np.concatenate(parts, axis=1)))
        self._rows_waiting += len(index)
        if self._rows_waiting >= ROWS_AT_ONCE:
            self._add_waiting()

    def _add_waiting(self) -> None:
        """Add the waiting batches to the sums at once: separate small batches take four times as long."""
        if not self._waiting:
            return
        units, stats = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        for start in range(0, max(1, len(units)), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            sums = draw_weights(units[rows], self.resamples, self.seed).T @ stats[rows]
            self._sums = self._sums + sums if self._sums.size else sums
        self._waiting.clear()
        self._rows_waiting = 0

    def get_arrays(self) -> list[np.ndarray]:
        """Return the sums, float64, and the outcomes, uint8, to sum over processes.

        The number of examples, the number with several trials per proportion, the statistics of each family,
        then the outcomes. A process without examples must have called `add` with empty columns, which define
        the shapes.
        """
        self._add_waiting()
        if self._widths is None:
            raise ValueError("nothing was added yet, not even empty columns, so the shapes are unknown")
        return [*np.split(self._sums, np.cumsum(self._widths)[:-1], axis=1), self._outcomes]

    def merge(self, arrays: Sequence[np.ndarray]) -> Tally:
        """Return a tally of the same metrics with `arrays`, which are summed over processes."""
        tally = Tally(self.metrics, self.resamples, self.seed, self.sample)
        *sums, tally._outcomes = arrays
        tally._widths = [each.shape[1] for each in sums]
        tally._sums = np.concatenate(sums, axis=1)
        return tally

    @property
    def n(self) -> int:
        """Number of examples."""
        return 0 if self._widths is None else round(self.get_arrays()[0][0, 0])

    def compute_values(self, metric: Metric) -> np.ndarray:
        """Return a metric's score over all examples, then over each resample: shape (resamples + 1,).

        Resamples without any example (likely only below ten examples) are NaN. Raises StageError when nothing
        was counted or the score is not a finite number.
        """
        if self.n == 0:
            raise StageError(f"{metric.name}: no example was counted; the split is empty")
        rows = slice(0, 1 + self.resamples)
        values = self._compute_values(metric, self.get_arrays()[0][rows, 0], self._get_sums(metric)[rows])
        if not np.isfinite(values[0]):
            raise StageError(f"{metric.name} is {values[0]}: the model's outputs are not finite numbers")
        return values

    def _compute_values(self, metric: Metric, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return np.where(counts > 0, metric.value(sums), np.nan)

    def _get_sums(self, metric: Metric) -> np.ndarray:
        return self.get_arrays()[2 + list(self._families).index(metric.family)]

    def series(self, metric: Metric) -> Series:
        """Return a metric's score over all examples and every resample, with what defines it."""
        values, sums, counts = self.compute_values(metric), self._get_sums(metric), self.get_arrays()[0][:, 0]
        halves, blocks = (
            slice(1 + self.resamples, 1 + 2 * self.resamples),
            slice(1 + 2 * self.resamples, None),
        )
        there = counts[blocks] > 0
        left = self._compute_values(metric, counts[0] - counts[blocks], sums[0] - sums[blocks])[there]
        sample = self.sample or sample_independent_rows(self.n)
        proportion, outcomes = self._create_proportion(metric, sums, sums[blocks][there], sample)
        return Series(
            name=metric.name,
            values=values,
            blocks=left,
            n=self.n,
            sample=sample,
            seed=self.seed,
            higher_is_better=metric.higher_is_better,
            signature=metric.signature,
            bounds=metric.bounds,
            evidence=metric.evidence(sums[0]),
            averaged=metric.units(sums[0]),
            proportion=proportion,
            outcomes=outcomes,
            exchange=_Sums(metric, sums[0], sums[halves]),
        )

    def _create_proportion(
        self, metric: Metric, sums: np.ndarray, blocks: np.ndarray, sample: Sample
    ) -> tuple[Proportion | None, np.ndarray | None]:
        """Return a score as a proportion, and the outcome of each row if rows are single trials."""
        if not metric.is_proportion:
            return None, None
        number = self._proportions.index(metric)
        single = not sample.grouped and self.get_arrays()[1][0, number] == 0
        outcomes = self._outcomes[:, number] if single and len(self._outcomes) else None
        shares = np.stack(metric.proportion(blocks), axis=1)
        successes, trials = (float(each) for each in metric.proportion(sums[0]))
        return Proportion(successes, trials, single, shares, metric.scale), outcomes

    def undefined(self) -> dict[str, str]:
        """Return the names of the metrics that have no score here, and why."""
        found = {metric.name: metric.undefined(self._get_sums(metric)[0]) for metric in self.metrics}
        return {name: why for name, why in found.items() if why is not None}

    @property
    def defined(self) -> list[Metric]:
        """The metrics that have a score here."""
        without = self.undefined()
        return [metric for metric in self.metrics if metric.name not in without]


@dataclass(frozen=True)
class _Sums:
    """The statistics of a system in all examples and in random halves of them."""

    metric: Metric
    total: np.ndarray
    """Shape (k,)."""
    halves: np.ndarray
    """Shape (tosses, k)."""

    def differences(self, other: object) -> np.ndarray | None:
        if not isinstance(other, _Sums) or not len(self.halves):
            return None
        mine = self.halves + (other.total - other.halves)
        theirs = other.halves + (self.total - self.halves)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.metric.value(mine) - self.metric.value(theirs)


def compute_scores(counts: Counts, confidence: float = 0.95) -> list[Score]:
    """Return the score of each metric that has one with its interval, in the metrics' order."""
    return [score_series(counts.series(metric), confidence) for metric in counts.defined]


def compare_tallies(
    mine: Counts, other: Counts, name: str, confidence: float = 0.95
) -> dict[str, Comparison]:
    """Return metric → difference between two systems on the same examples, for the metrics of both.

    Averages over tokens are omitted if the two have different numbers of tokens. Raises StageError when the
    two differ in the number of examples, the resamples or the seed.
    """
    for what in ("n", "resamples", "seed"):
        ours, theirs = getattr(mine, what), getattr(other, what)
        if ours != theirs:
            raise StageError(f"{name}: cannot be compared: its {what} is {theirs}, and the model's is {ours}")
    theirs_of = {metric.name: other.series(metric) for metric in other.defined}
    found = {}
    for metric in mine.defined:
        series = mine.series(metric)
        if metric.name in theirs_of and theirs_of[metric.name].averaged == series.averaged:
            found[metric.name] = compare_series(series, theirs_of[metric.name], name, confidence)
    return found


def _compute_outcomes(metric: Metric, stats: np.ndarray) -> np.ndarray:
    """Return the outcome of each example in a proportion: uint8, shape (n,)."""
    successes, trials = metric.proportion(stats)
    single = (trials == 1) & ((successes == 0) | (successes == 1))
    return np.select([trials == 0, single], [NO_TRIAL, FAILURE + successes], SEVERAL).astype(np.uint8)
