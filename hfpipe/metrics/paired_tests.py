"""Tests of the difference between two systems on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binom


class PairedTest(NamedTuple):
    """A two-sided p-value under no difference, and the test that gave it."""

    name: str
    p_value: float


def mcnemar_test(first: int, second: int) -> PairedTest:
    """McNemar's test: rows that only the first system has right, and those that only the second has.

    The exact conditional test (a binomial test of the rows on which the two differ) with mid-P, which keeps
    the level and is less conservative than the exact one (Fagerland, Lydersen & Laake, 2013).
    """
    fewer, total = min(first, second), first + second
    tail = binom.cdf(fewer, total, 0.5) - binom.pmf(fewer, total, 0.5) / 2
    return PairedTest("mcnemar-midp", float(min(1.0, 2 * tail)))


def randomization_test(difference: float, swapped: np.ndarray) -> PairedTest:
    """Approximate randomization (Noreen, 1989; Yeh, 2000): the two systems' outputs are exchanged at random.

    `swapped`, shape (tosses,), are the differences after the outputs of each unit were exchanged or not by
    a fair coin. Without any that is finite p is 1.
    """
    return PairedTest("randomization", _share(difference, swapped[np.isfinite(swapped)]))


def bootstrap_test(difference: float, resampled: np.ndarray) -> PairedTest:
    """The paired bootstrap (Koehn, 2004), its differences moved to 0 (Berg-Kirkpatrick et al., 2012).

    `resampled`, shape (resamples,), may hold NaN where a resample has no score.
    """
    there = resampled[np.isfinite(resampled)]
    return PairedTest("bootstrap", _share(difference, there - difference))


def _share(difference: float, null: np.ndarray) -> float:
    """Return the share of differences under no difference that are as far from 0 as the measured one.

    One is added to both counts, so that p is never 0 (Davison & Hinkley, 1997, section 4.2). Rounding makes
    equal systems differ by 1e-16; without the slack that would pass for an effect.
    """
    extreme = np.abs(null) >= np.abs(difference) * (1 - 1e-9) - 1e-10
    return float((extreme.sum() + 1) / (len(null) + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, by the step-down procedure of Holm (1979)."""
    corrected, highest = list(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected
