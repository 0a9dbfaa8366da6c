"""Random numbers that depend on seed, epoch and example alone, never on what a generator drew before."""

from __future__ import annotations

import numpy as np

EVALUATION = 2**32 - 1
"""Stands for the epoch where there is none."""


def generator(seed: int, epoch: int | None, index: int) -> np.random.Generator:
    """Return the random numbers of one example in one epoch (counter-based: Salmon et al., 2011)."""
    key = (seed, EVALUATION if epoch is None else epoch)
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, index)))
