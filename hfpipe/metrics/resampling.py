"""Weights for resampling rows: pure functions of a seed and the index of a unit.

Units are sampled at random: rows, or groups of dependent rows, such as the questions about one text. All rows
of a unit get the same weights, so that results do not depend on batches and processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import exp, factorial

import numpy as np

BLOCKS = 100
"""Number of blocks of units for the jackknife; with fewer units, each unit is a block."""
BOOTSTRAP, COINS = 0, 1
"""Kinds of random numbers of a unit; each kind has its own counter."""


@dataclass(frozen=True)
class RowWeights:
    """Weights of the rows of a split in weighted scores."""

    column: str
    """Column of the data set that contains them."""
    values: np.ndarray
    """float64, shape (rows,), at least 0."""


@dataclass(frozen=True)
class Sample:
    """The rows of a split and their units."""

    units: np.ndarray
    """Index of the unit of each row, int64, shape (rows,)."""
    cluster: str | None = None
    """Column whose equal values form a unit; None if every row is a unit."""
    weights: RowWeights | None = None
    """Weights of the rows, None if all are equal."""

    @cached_property
    def count(self) -> int:
        """Number of units."""
        return len(self.units) if self.cluster is None else len(np.unique(self.units))

    @property
    def grouped(self) -> bool:
        """Whether any unit has more than one row."""
        return self.count < len(self.units)


def sample_independent_rows(rows: int) -> Sample:
    """Return a sample in which every row is a unit."""
    return Sample(np.arange(rows))


def draw_weights(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return all weights of some rows: float64, shape (n, 1 + 2 * resamples + BLOCKS).

    These are 1 for every row, bootstrap resamples, halves for the randomization test, and blocks for the
    jackknife; without resamples only the first.
    """
    blocks = BLOCKS if resamples else 0
    found = np.ones((len(units), 1 + 2 * resamples + blocks))
    found[:, 1 : 1 + resamples] = draw_poisson_weights(units, resamples, seed)
    found[:, 1 + resamples : 1 + 2 * resamples] = toss_coins(units, resamples, seed)
    found[:, 1 + 2 * resamples :] = mark_blocks(units)[:, :blocks]
    return found


def mark_blocks(units: np.ndarray) -> np.ndarray:
    """Return 1 in the block of each unit and 0 elsewhere: uint8, shape (n, BLOCKS)."""
    return (units[:, None] % BLOCKS == np.arange(BLOCKS)).astype(np.uint8)


def draw_poisson_weights(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the Poisson(1) bootstrap weights of some rows: uint8, shape (n, resamples).

    A row depends only on the seed and its unit: a section of the Philox counter per unit, 16 bits per weight,
    so that probabilities are exact to 2⁻¹⁶. More resamples extend the row.
    """
    raw = _draw_words(units, -(-resamples // 4), seed, BOOTSTRAP)
    return _compute_poisson_quantiles()[raw.view("<u2")[:, :resamples]]


def toss_coins(units: np.ndarray, tosses: int, seed: int) -> np.ndarray:
    """Return fair coins for some rows, 0 or 1: uint8, shape (n, tosses); made as the Poisson weights are."""
    raw = _draw_words(units, -(-tosses // 64), seed, COINS)
    return np.unpackbits(raw.view(np.uint8), axis=1)[:, :tosses]


def _draw_words(units: np.ndarray, words: int, seed: int, kind: int) -> np.ndarray:
    """Return random words of each unit, little-endian uint64, shape (n, words)."""
    if not (words and len(units)):
        return np.empty((len(units), words), dtype="<u8")
    found = np.fromiter(
        _iterate_random_words(units, words, seed, kind), dtype=np.dtype((np.uint64, words)), count=len(units)
    )
    return found.astype("<u8")


def _iterate_random_words(units: np.ndarray, words: int, seed: int, kind: int) -> Iterator[np.ndarray]:
    # Setting the counter is nine times as fast as a generator for each row.
    philox = np.random.Philox(key=seed)
    state = philox.state
    state["state"]["counter"][2] = kind
    for number in units.tolist():
        state["state"]["counter"][1] = number
        philox.state = state
        yield philox.random_raw(words)


@cache
def _compute_poisson_quantiles() -> np.ndarray:
    """Return the quantiles of Poisson(1) at (i + ½) / 2¹⁶: uint8, shape (65536,)."""
    cumulative = np.cumsum([exp(-1) / factorial(k) for k in range(20)])
    return np.searchsorted(cumulative, (np.arange(2**16) + 0.5) / 2**16).astype(np.uint8)
