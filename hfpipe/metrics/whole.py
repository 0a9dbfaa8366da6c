"""Metrics that need all examples at once, such as those from ranks, and are not functions of sums.

They are computed after the pass, from stored values of each example, with the same Poisson weights as the
other scores, so that intervals and paired differences have the same meaning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hfpipe.metrics.resampling import Sample, draw_poisson_weights, mark_blocks, toss_coins
from hfpipe.metrics.series import Series

if TYPE_CHECKING:
    from hfpipe.types import Columns

WEIGHTS_AT_ONCE = 2**22
"""Product of examples and resamples passed to a metric at once: 32 MB in float64."""
WEIGHTS_AT_MOST = 2**28
"""Maximum product of examples and resamples in memory, one byte each; more examples get fewer resamples."""
FEWEST = 100
"""Minimum number of resamples."""


class WholeMetric(ABC):
    """A score of a split that is not a function of sums over its examples."""

    name: str
    """Name in `require` and in the table of scores."""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    """Minimum and maximum of the score."""
    reads: ClassVar[tuple[str, ...]]
    """Required columns of the predictions."""
    undefined: ClassVar[str]
    """Reason for a missing value, as a clause."""

    @property
    @abstractmethod
    def signature(self) -> str:
        """Definition of the score, as `name|key:value|key:value`; interval and version are added to it."""

    @abstractmethod
    def value(self, columns: Columns, weights: np.ndarray) -> np.ndarray:
        """Return the score with each example repeated by its weight, NaN if it is not defined.

        `columns` have n rows each; `weights` are integers, shape (n, k); the result has shape (k,).
        """


def compute_whole_series(
    metrics: Sequence[WholeMetric], columns: Columns, sample: Sample, resamples: int, seed: int
) -> Iterator[Series]:
    """Yield each metric whose columns exist, over all examples and over each resample.

    `sample` gives the unit of each example, which determines its weights.
    """
    resamples = limit_resamples(resamples, len(sample.units))
    for metric in metrics:
        if set(metric.reads) <= set(columns):
            yield Series(
                name=metric.name,
                values=resample_scores(metric, columns, sample.units, resamples, seed),
                blocks=_leave_out_blocks(metric, columns, sample.units),
                n=len(sample.units),
                sample=sample,
                seed=seed,
                higher_is_better=metric.higher_is_better,
                signature=metric.signature,
                bounds=metric.bounds,
                exchange=_Rows(metric, columns, sample.units, resamples, seed),
            )


def resample_scores(
    metric: WholeMetric, columns: Columns, units: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Return a metric's score over all examples, then over each resample: shape (resamples + 1,)."""
    plain = metric.value(columns, np.ones((len(units), 1), dtype=np.uint8))
    return np.concatenate(
        [plain, _compute_values(metric, columns, draw_poisson_weights(units, resamples, seed))]
    )


def _leave_out_blocks(metric: WholeMetric, columns: Columns, units: np.ndarray) -> np.ndarray:
    """Return a metric's score without each block of units: shape (blocks,)."""
    blocks = mark_blocks(units)
    return _compute_values(metric, columns, 1 - blocks[:, blocks.any(axis=0)])


def _compute_values(metric: WholeMetric, columns: Columns, weights: np.ndarray) -> np.ndarray:
    """Return a metric's score under many weightings, in batches: uint8 (n, k) → (k,)."""
    step = max(1, WEIGHTS_AT_ONCE // max(len(weights), 1))
    starts = range(0, weights.shape[1], step)
    found = [metric.value(columns, weights[:, start : start + step]) for start in starts]
    return np.concatenate(found) if found else np.empty(0)


@dataclass(frozen=True)
class _Rows:
    """The outputs of a system for all examples."""

    metric: WholeMetric
    columns: Columns
    units: np.ndarray
    tosses: int
    seed: int

    def differences(self, other: object) -> np.ndarray | None:
        if not isinstance(other, _Rows):
            return None
        both = {name: np.concatenate([self.columns[name], other.columns[name]]) for name in self.metric.reads}
        own = toss_coins(self.units, self.tosses, self.seed)
        mine, theirs = np.concatenate([own, 1 - own]), np.concatenate([1 - own, own])
        return _compute_values(self.metric, both, mine) - _compute_values(self.metric, both, theirs)


def limit_resamples(resamples: int, rows: int, most: int = WEIGHTS_AT_MOST) -> int:
    """Return the number of resamples for a number of rows; scores must depend on nothing else."""
    return min(resamples, max(FEWEST, most // max(rows, 1)))
