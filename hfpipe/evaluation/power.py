"""How small a difference a split can show: the power of McNemar's test, before anything is measured."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

from hfpipe.report import SIGNIFICANT

POWER = 0.8
"""Probability that a difference of this size is found."""
DISAGREEMENT = 0.2
"""Share of rows on which one of two systems is right and the other wrong, where it is not known."""


def smallest_difference(
    rows: int, p: float = SIGNIFICANT, disagreement: float = DISAGREEMENT
) -> float | None:
    """Return the smallest difference of two accuracies that `rows` rows show with 80 % power, two-sided.

    By the approximation of Connor (1987) for paired proportions. A difference larger than `disagreement`
    takes that much disagreement. None where not even systems of accuracy 0 and 1 could be distinguished.
    """
    low, high = 0.0, 1.0
    if 0.5**rows >= p:  # the p-value where all rows are for one system
        return None
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if _rows_needed(middle, p, disagreement) <= rows else (middle, high)
    return high


def _rows_needed(difference: float, p: float, disagreement: float) -> float:
    apart = max(disagreement, difference)
    normal = NormalDist()
    alpha, beta = normal.inv_cdf(1 - p / 2), normal.inv_cdf(POWER)
    return ((alpha * sqrt(apart) + beta * sqrt(apart - difference**2)) / difference) ** 2
