"""Confidence intervals: binomial for proportions, by bootstrap for all other scores.

A percentile interval is too short for few rows, and empty if all rows are correct. The manual states the
coverage of these intervals, which `tests/test_coverage.py` measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv, ndtr, ndtri, stdtrit

from hfpipe.metrics.series import Proportion, Series


class Interval(NamedTuple):
    """A confidence interval and its method."""

    low: float
    high: float
    method: str
    """Name in the signature."""


def compute_interval(series: Series, confidence: float = 0.95) -> Interval:
    """Return the interval of a score; both ends are NaN if it is unknown, for example with a single unit."""
    if series.proportion is not None:
        return compute_proportion_interval(series.proportion, series.units, confidence)
    low, high = compute_bootstrap_interval(series.values, series.blocks, series.units, confidence)
    value, (lowest, highest) = float(series.values[0]), series.bounds
    # All resamples of a perfect score are perfect: only the number of rows gives information.
    if high - low <= get_rounding_tolerance(value) and lowest is not None and highest is not None:
        trials = min(series.evidence, series.units)
        share = (min(max(value, lowest), highest) - lowest) / (highest - lowest)
        ends = _compute_midp(share * trials, trials, confidence)
        low, high = (lowest + end * (highest - lowest) for end in ends)
        return Interval(low, high, "binomial-midp")
    return Interval(low, high, "poisson-bca")


def compute_bootstrap_interval(
    values: np.ndarray, blocks: np.ndarray, units: int, confidence: float
) -> tuple[float, float]:
    """Return the outer ends of the BCa interval (Efron, 1987) and the percentile interval of resamples.

    `values`, shape (resamples + 1,), has the score of all rows first; `blocks`, shape (blocks,), are the
    scores without each block, whose skewness is the acceleration. Both intervals use quantiles of Student's
    t, which compensates for the small variance of resamples of few units (Hesterberg, 2015). BCa corrects the
    bias of skewed scores and overcorrects for few units; the outer ends have the nominal coverage in both
    cases.
    """
    measured, resampled = values[0], values[1:][np.isfinite(values[1:])]
    if not len(resampled) or units < 2:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    wide = math.sqrt(units / (units - 1)) * stdtrit(units - 1, 1 - tail)
    away, equal = resampled - measured, get_rounding_tolerance(float(measured))
    share = ((away < -equal).mean() + (away <= equal).mean()) / 2
    least = 1 / (len(resampled) + 1)
    bias, skewness = ndtri(np.clip(share, least, 1 - least)), compute_acceleration(blocks)
    levels = [ndtr(-wide), _move_level(-wide, bias, skewness), ndtr(wide), _move_level(wide, bias, skewness)]
    ends = np.quantile(resampled, levels)
    return float(ends[:2].min()), float(ends[2:].max())


def get_rounding_tolerance(value: float) -> float:
    """Return the maximum difference of two scores due to rounding: sums depend on the order of batches."""
    return 1e-9 * max(1.0, abs(value))


def _move_level(quantile: float, bias: float, skewness: float) -> float:
    """Return the level of the resamples at which BCa takes the normal `quantile`."""
    total = bias + quantile
    below = 1 - skewness * total
    return float(ndtr(bias + total / below)) if below > 0 else float(quantile > 0)


def compute_acceleration(blocks: np.ndarray) -> float:
    """Return the acceleration of BCa from the scores without each block (Efron, 1987, section 6)."""
    there = blocks[np.isfinite(blocks)]
    away = there.mean() - there if len(there) else there
    spread = (away**2).sum()
    return float((away**3).sum() / (6 * spread**1.5)) if spread > 0 else 0.0


def compute_proportion_interval(found: Proportion, units: int, confidence: float) -> Interval:
    """Return the interval of a proportion of independent trials, or of trials in groups (units).

    Independent trials have the exact interval with mid-P (Lancaster, 1961; Agresti & Gottard, 2005). For
    others, the effective number of independent trials with the same variance is used, and the exact interval
    is adjusted for the number of blocks from which the variance is estimated (Korn & Graubard, 1998).
    """
    share = found.successes / found.trials if found.trials else math.nan
    if found.single:
        low, high = _compute_midp(found.successes, found.trials, confidence)
        return Interval(found.scale * low, found.scale * high, "binomial-midp")
    blocks = found.blocks[found.blocks[:, 1] > 0]
    trials = _estimate_effective_trials(share, found.trials, blocks, units, confidence)
    low, high = _compute_clopper_pearson(share * trials if found.trials else 0.0, trials, confidence)
    return Interval(found.scale * low, found.scale * high, "korn-graubard")


def _estimate_effective_trials(
    share: float, trials: float, blocks: np.ndarray, units: int, confidence: float
) -> float:
    """Return the number of independent trials with the variance of the blocks.

    It is smaller for few blocks, so that the interval is as long as one with Student's t. If all trials or
    none succeeded, their dependence is unknown, and each unit counts once.
    """
    if not 0 < share < 1 or len(blocks) < 2:
        return min(trials, units)
    away = blocks[:, 0] - share * blocks[:, 1]
    variance = len(blocks) / (len(blocks) - 1) * (away**2).sum() / trials**2
    # F1 has at most twice the precision of a proportion of as many trials.
    found = min(share * (1 - share) / variance, 2 * trials) if variance > 0 else trials
    upper = (1 + confidence) / 2
    return float(found * (ndtri(upper) / stdtrit(len(blocks) - 1, upper)) ** 2)


def _compute_clopper_pearson(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """Return the exact interval of a proportion; the numbers need not be integers."""
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = betaincinv(successes, failures + 1, tail) if successes > 0 else 0.0
    high = betaincinv(successes + 1, failures, 1 - tail) if failures > 0 else 1.0
    return float(low), float(high)


def _compute_midp(successes: float, trials: float, confidence: float) -> tuple[float, float]:
    """Return the proportions for which the trials are not among the `1 - confidence` least likely (mid-P)."""
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = (
        0.0
        if successes == 0
        else _find_root(lambda share: _compute_tail_probability(successes, trials, share) - tail)
    )
    high = (
        1.0
        if failures == 0
        else 1 - _find_root(lambda share: _compute_tail_probability(failures, trials, share) - tail)
    )
    return low, high


def _compute_tail_probability(successes: float, trials: float, share: float) -> float:
    """Return the probability of more successes than this, plus half of that of as many."""
    more = betainc(successes + 1, trials - successes, share) if successes < trials else 0.0
    return float((betainc(successes, trials - successes + 1, share) + more) / 2)


def _find_root(function: Callable[[float], float]) -> float:
    return float(brentq(function, 0.0, 1.0, xtol=1e-12))


def compute_difference_interval(mine: Series, other: Series, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the difference of two scores on the same rows."""
    pair = count_paired_outcomes(mine, other)
    if pair is not None and mine.proportion is not None:
        ends = _compute_paired_interval(*pair, confidence)
        return mine.proportion.scale * ends[0], mine.proportion.scale * ends[1]
    blocks = mine.blocks - other.blocks if len(mine.blocks) == len(other.blocks) else np.empty(0)
    return compute_bootstrap_interval(mine.values - other.values, blocks, mine.units, confidence)


def count_paired_outcomes(mine: Series, other: Series) -> tuple[int, int, int] | None:
    """Return the numbers of rows correct only in the first, correct only in the second, and of all trials.

    None if the rows are not single, independent trials of both.
    """
    if mine.outcomes is None or other.outcomes is None:
        return None
    trials = mine.outcomes > 0
    if not np.array_equal(trials, other.outcomes > 0):
        return None
    first = int(np.sum(mine.outcomes > other.outcomes))
    return first, int(np.sum(mine.outcomes < other.outcomes)), int(trials.sum())


def _compute_paired_interval(first: int, second: int, rows: int, confidence: float) -> tuple[float, float]:
    """Return the adjusted Wald interval of a difference of paired proportions (Bonett & Price, 2012)."""
    one, two = (first + 1) / (rows + 2), (second + 1) / (rows + 2)
    gap = one - two
    half = float(ndtri((1 + confidence) / 2)) * math.sqrt((one + two - gap**2) / (rows + 2))
    return max(-1.0, gap - half), min(1.0, gap + half)
