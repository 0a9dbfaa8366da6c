"""Scores with weighted rows, as with scikit-learn's `sample_weight`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import ROW_WEIGHT, Metric

if TYPE_CHECKING:
    from hfpipe.types import Columns


class RowWeighted(Metric):
    """A score from statistics that are multiplied by the weight of their row.

    Rows are resampled as for the unweighted score and keep their weights. Its statistics are those of
    `metric`, then the weight and its square, which give the effective number of rows: (Σw)² / Σw² (Kish,
    1965, section 11.7).

    Args: metric: A score from 0 to 1, where 1 is best. column: Column of the data set with the weights.
    """

    bounds = (0.0, 1.0)

    def __init__(self, metric: Metric, column: str) -> None:
        self.name = f"weighted_{metric.name}"
        self._metric, self._column = metric, column

    @property
    def family(self) -> Hashable:
        return "row-weighted", self._metric.family

    @property
    def signature(self) -> str:
        return f"weighted_{self._metric.signature}|row-weights:{self._column}"

    def stats(self, columns: Columns) -> np.ndarray:
        weight = columns[ROW_WEIGHT][:, None]
        return np.concatenate([self._metric.stats(columns) * weight, weight, weight**2], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        # A resample may contain no row with a positive weight.
        return np.where(sums[..., -2] > 0, self._metric.value(sums[..., :-2]), np.nan)

    def evidence(self, sums: np.ndarray) -> float:
        weight, square = float(sums[-2]), float(sums[-1])
        return min(weight**2 / square, self._metric.evidence(sums[:-2] * weight / square))


def add_row_weights(metrics: Sequence[Metric], column: str | None) -> list[Metric]:
    """Return metrics, followed by their row-weighted versions if a column has weights."""
    weighted = [
        RowWeighted(metric, column) for metric in metrics if column is not None and metric.weighs_rows
    ]
    return [*metrics, *weighted]
