"""The smallest detectable difference on a split, from the power of McNemar's test."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from hfpipe.report import SIGNIFICANT

POWER = 0.8
"""Probability that a difference of this size is detected."""
DISAGREEMENT = 0.2
"""Assumed fraction of rows on which exactly one of two systems is correct."""


def find_smallest_difference(rows: int) -> float | None:
    """Return the smallest difference of two accuracies that `rows` rows detect with 80 % power, two-sided.

    By the approximation of Connor (1987) for paired proportions. A difference larger than `DISAGREEMENT`
    implies that much disagreement. None if not even accuracies of 0 and 1 could be distinguished.
    """
    low, high = 0.0, 1.0
    if 0.5**rows >= SIGNIFICANT:  # the p-value if all rows favour one system
        return None
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if _compute_rows_needed(middle) <= rows else (middle, high)
    return high


def _compute_rows_needed(difference: float) -> float:
    apart = max(DISAGREEMENT, difference)
    normal = NormalDist()
    alpha, beta = normal.inv_cdf(1 - SIGNIFICANT / 2), normal.inv_cdf(POWER)
    return ((alpha * sqrt(apart) + beta * sqrt(apart - difference**2)) / difference) ** 2
