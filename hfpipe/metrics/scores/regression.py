"""Scores of models that predict a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import Mean, Metric, divide_or_zero

if TYPE_CHECKING:
    from hfpipe.types import Columns


def create_regression_metrics() -> list[Metric]:
    """Return the metrics of a regression; they read `reference` and `prediction`, floats of shape (n,)."""
    return [SquaredError(), AbsoluteError(), Pearson()]


class SquaredError(Mean):
    """Mean squared error."""

    higher_is_better = False
    name = "mse"

    def each(self, columns: Columns) -> np.ndarray:
        return (columns["reference"].astype(np.float64) - columns["prediction"]) ** 2


class AbsoluteError(Mean):
    """Mean absolute error."""

    higher_is_better = False
    name = "mae"

    def each(self, columns: Columns) -> np.ndarray:
        return np.abs(columns["reference"].astype(np.float64) - columns["prediction"])


class Pearson(Metric):
    """Pearson's correlation, 0 if reference or prediction is constant or varies by a millionth of its mean.

    Computed from mergeable sums of squares, whereas `scipy.stats.pearsonr` needs all examples at once: about
    as many digits are lost as the square of mean / standard deviation has.
    """

    name = "pearson"

    @property
    def signature(self) -> str:
        return "pearson|constant:0"

    def stats(self, columns: Columns) -> np.ndarray:
        x, y = columns["reference"].astype(np.float64), columns["prediction"].astype(np.float64)
        return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        spread_x, spread_y = n * xx - x**2, n * yy - y**2
        # Rounding errors of a constant column are not variance.
        known = (spread_x > 1e-12 * n * xx) & (spread_y > 1e-12 * n * yy)
        spread = np.sqrt(np.where(known, spread_x * spread_y, 0))
        return np.clip(divide_or_zero(n * xy - x * y, spread), -1, 1)
