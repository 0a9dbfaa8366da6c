"""Scores that need every example at once, as those from ranks do: no sum of statistics gives them.

They are computed after the pass, from what was kept of each example, under the same Poisson weights as the
scores that add up, so that intervals and paired differences mean the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hfpipe.metrics.resampling import Sample, one_block, poisson, toss_coins
from hfpipe.metrics.series import Series

if TYPE_CHECKING:
    from hfpipe.types import Columns

WEIGHTS_AT_ONCE = 2**22
"""Examples times resamples that a metric is given together: 32 MB in float64."""
WEIGHTS_AT_MOST = 2**28
"""Examples times resamples, a byte each, that are held; more examples get fewer resamples."""
FEWEST = 100
"""Resamples below which there are never fewer."""


class WholeMetric(ABC):
    """A score of a whole split that is not a function of sums over its examples."""

    name: str
    """As written in `require` and in the table of scores."""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    """Lowest and highest value that such a score can have."""
    reads: ClassVar[tuple[str, ...]]
    """Columns of the predictions that it needs."""
    undefined: ClassVar[str]
    """Why it has no value where it has none, as a clause."""

    @property
    @abstractmethod
    def signature(self) -> str:
        """What defines the number, as `name|key:value|key:value`; interval and version are added to it."""

    @abstractmethod
    def value(self, columns: Columns, weights: np.ndarray) -> np.ndarray:
        """Return the score with each example repeated by its weight, NaN where it is not defined.

        `columns` have n rows each; `weights` are whole numbers, shape (n, k); the result has shape (k,).
        """


def measured(
    metrics: Sequence[WholeMetric], columns: Columns, sample: Sample, resamples: int, seed: int
) -> Iterator[Series]:
    """Yield each metric whose columns are there, over all examples and over each resample.

    `sample` tells the unit of each example, on which its weights depend.
    """
    resamples = affordable_resamples(resamples, len(sample.units))
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
    return np.concatenate([plain, _values(metric, columns, poisson(units, resamples, seed))])


def _leave_out_blocks(metric: WholeMetric, columns: Columns, units: np.ndarray) -> np.ndarray:
    """Return a metric's score without each block of units that there is: shape (blocks,)."""
    blocks = one_block(units)
    return _values(metric, columns, 1 - blocks[:, blocks.any(axis=0)])


def _values(metric: WholeMetric, columns: Columns, weights: np.ndarray) -> np.ndarray:
    """Return a metric's score under each of many weightings, some at a time: uint8 (n, k) → (k,)."""
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
        return _values(self.metric, both, mine) - _values(self.metric, both, theirs)


def affordable_resamples(resamples: int, rows: int, most: int = WEIGHTS_AT_MOST) -> int:
    """Return how many resamples of so many rows are taken; it depends on nothing else, as scores must."""
    return min(resamples, max(FEWEST, most // max(rows, 1)))
