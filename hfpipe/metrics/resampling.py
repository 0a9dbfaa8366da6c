"""The weights under which rows are counted again: pure functions of a seed and the number of a unit.

A unit is what is drawn at random: a row, or a group of rows that depend on one another, as the questions
about one text. All rows of a unit get the same weights, so that a batch of any size in any process counts
as the whole split would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import exp, factorial

import numpy as np

BLOCKS = 100
"""Blocks of units that are left out in turn (the jackknife); below so many units each is a block."""
BOOTSTRAP, COINS = 0, 1
"""Which random numbers of a unit are meant; each kind has a counter of its own."""


@dataclass(frozen=True)
class RowWeights:
    """How much each row of a split counts in weighted scores."""

    column: str
    """Column of the data set that holds them."""
    values: np.ndarray
    """float64, shape (rows,), at least 0."""


@dataclass(frozen=True)
class Sample:
    """The rows of a split and the units that they belong to."""

    units: np.ndarray
    """Number of the unit of each row, int64, shape (rows,)."""
    cluster: str | None = None
    """Column whose equal values make a unit; None where every row is one."""
    weights: RowWeights | None = None
    """What rows weigh where they are drawn or not, None where they all count alike."""

    @cached_property
    def count(self) -> int:
        """Number of units."""
        return len(self.units) if self.cluster is None else len(np.unique(self.units))

    @property
    def grouped(self) -> bool:
        """Whether some unit has more than one row."""
        return self.count < len(self.units)


def sample_independent_rows(rows: int) -> Sample:
    """Return a sample in which every row is a unit."""
    return Sample(np.arange(rows))


def draw_weights(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return every weight of some rows: float64, shape (n, 1 + 2 * resamples + BLOCKS).

    All rows once, bootstrap resamples, halves for the randomization test, and blocks for the jackknife;
    without resamples all rows once is the only one.
    """
    blocks = BLOCKS if resamples else 0
    found = np.ones((len(units), 1 + 2 * resamples + blocks))
    found[:, 1 : 1 + resamples] = poisson(units, resamples, seed)
    found[:, 1 + resamples : 1 + 2 * resamples] = toss_coins(units, resamples, seed)
    found[:, 1 + 2 * resamples :] = one_block(units)[:, :blocks]
    return found


def one_block(units: np.ndarray) -> np.ndarray:
    """Return 1 in the block of each unit and 0 elsewhere: uint8, shape (n, BLOCKS)."""
    return (units[:, None] % BLOCKS == np.arange(BLOCKS)).astype(np.uint8)


def poisson(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return the Poisson(1) bootstrap weights of some rows: uint8, shape (n, resamples).

    A row is a pure function of the seed and its unit: stretch `units` of the Philox counter, 16 bits a
    weight, so that probabilities are exact to 2⁻¹⁶; more resamples append to the row.
    """
    raw = _random(units, -(-resamples // 4), seed, BOOTSTRAP)
    return _inverse_poisson()[raw.view("<u2")[:, :resamples]]


def toss_coins(units: np.ndarray, tosses: int, seed: int) -> np.ndarray:
    """Return fair coins for some rows, 0 or 1: uint8, shape (n, tosses); made as the Poisson weights are."""
    raw = _random(units, -(-tosses // 64), seed, COINS)
    return np.unpackbits(raw.view(np.uint8), axis=1)[:, :tosses]


def _random(units: np.ndarray, words: int, seed: int, kind: int) -> np.ndarray:
    """Return random words of each unit, little-endian uint64, shape (n, words)."""
    if not (words and len(units)):
        return np.empty((len(units), words), dtype="<u8")
    found = np.fromiter(
        _random_words(units, words, seed, kind), dtype=np.dtype((np.uint64, words)), count=len(units)
    )
    return found.astype("<u8")


def _random_words(units: np.ndarray, words: int, seed: int, kind: int) -> Iterator[np.ndarray]:
    # Setting the counter is nine times as fast as a generator for each row.
    philox = np.random.Philox(key=seed)
    state = philox.state
    state["state"]["counter"][2] = kind
    for number in units.tolist():
        state["state"]["counter"][1] = number
        philox.state = state
        yield philox.random_raw(words)


@cache
def _inverse_poisson() -> np.ndarray:
    """Return the quantiles of Poisson(1) at (i + ½) / 2¹⁶: uint8, shape (65536,)."""
    cumulative = np.cumsum([exp(-1) / factorial(k) for k in range(20)])
    return np.searchsorted(cumulative, (np.arange(2**16) + 0.5) / 2**16).astype(np.uint8)
