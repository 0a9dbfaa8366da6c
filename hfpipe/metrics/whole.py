"""Scores that need every example at once, as those from ranks do: no sum of statistics gives them.

They are computed after the pass, from what was kept of each example, under the same Poisson weights as the
scores that add up, so that intervals and paired differences mean the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hfpipe.metrics.tally import Series, poisson

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
    metrics: Sequence[WholeMetric], columns: Columns, index: np.ndarray, resamples: int, seed: int
) -> Iterator[Series]:
    """Yield each metric whose columns are there, over all examples and over each resample.

    `index` is each example's place in the split, int64, shape (n,), on which its weights depend.
    """
    resamples = affordable(resamples, len(index))
    for metric in metrics:
        if set(metric.reads) <= set(columns):
            values = resample_scores(metric, columns, index, resamples, seed)
            better, signature = metric.higher_is_better, metric.signature
            yield Series(metric.name, values, len(index), better, signature, seed)


def resample_scores(
    metric: WholeMetric, columns: Columns, index: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Return a metric's score over all examples, then over each resample: shape (resamples + 1,)."""
    plain = metric.value(columns, np.ones((len(index), 1), dtype=np.uint8))
    weights = poisson(index, resamples, seed)
    step = max(1, WEIGHTS_AT_ONCE // max(len(index), 1))
    blocks = [weights[:, start : start + step] for start in range(0, resamples, step)]
    return np.concatenate([plain, *(metric.value(columns, block) for block in blocks)])


def affordable(resamples: int, rows: int, most: int = WEIGHTS_AT_MOST) -> int:
    """Return how many resamples of so many rows are taken; it depends on nothing else, as scores must."""
    return min(resamples, max(FEWEST, most // max(rows, 1)))
