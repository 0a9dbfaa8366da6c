"""Tests of the difference between two systems on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PairedTest(NamedTuple):
    """A two-sided p-value under the null hypothesis of no difference, and the name of the test."""

    name: str
    p_value: float


def run_mcnemar_test(first: int, second: int) -> PairedTest:
    """McNemar's test: numbers of rows correct only in the first, and only in the second system.

    The exact conditional test (a binomial test of the rows on which the two differ) with mid-P, which keeps
    the level and is less conservative than the exact one (Fagerland, Lydersen & Laake, 2013).
    """
    from scipy.stats import binom  # half a second, which a training does not need

    fewer, total = min(first, second), first + second
    tail = binom.cdf(fewer, total, 0.5) - binom.pmf(fewer, total, 0.5) / 2
    return PairedTest("mcnemar-midp", float(min(1.0, 2 * tail)))


def run_randomization_test(difference: float, swapped: np.ndarray) -> PairedTest:
    """Approximate randomization (Noreen, 1989; Yeh, 2000): the two systems' outputs are exchanged at random.

    `swapped`, shape (tosses,), are the differences after exchanging the outputs of random units, each with
    probability 1/2. Differences equal to the measured one count half (mid-P), as in McNemar's test: with few
    rows there are many. Without finite differences, p is 1.
    """
    null = swapped[np.isfinite(swapped)]
    larger, as_large = _count_extreme(difference, null)
    # The measured difference is one of the possible permutations (Davison & Hinkley, 1997, 4.3).
    p_value = (larger + (as_large + 1) / 2) / (len(null) + 1)
    return PairedTest("randomization-midp", 1.0 if difference == 0 or not len(null) else p_value)


def run_bootstrap_test(difference: float, resampled: np.ndarray) -> PairedTest:
    """The paired bootstrap (Koehn, 2004), with differences centered at 0 (Berg-Kirkpatrick et al., 2012).

    `resampled`, shape (resamples,), may contain NaN if a resample has no score. One is added to both counts,
    so that p is never 0 (Davison & Hinkley, 1997, section 4.2).
    """
    there = resampled[np.isfinite(resampled)]
    larger, as_large = _count_extreme(difference, there - difference)
    return PairedTest("bootstrap", (larger + as_large + 1) / (len(there) + 1))


def _count_extreme(difference: float, null: np.ndarray) -> tuple[int, int]:
    """Return how many differences under the null hypothesis are larger than the measured one, or equal.

    A tolerance is used because rounding makes equal differences differ in the last digits.
    """
    slack = 1e-9 * abs(difference) + 1e-10
    away = np.abs(null) - abs(difference)
    return int((away > slack).sum()), int((np.abs(away) <= slack).sum())


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, by the step-down procedure of Holm (1979)."""
    corrected, highest = list(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
