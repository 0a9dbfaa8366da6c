"""Random numbers that depend only on seed, epoch and example, not on the state of a generator."""

from __future__ import annotations

import numpy as np

EVALUATION = 2**32 - 1
"""Value of the epoch in evaluation."""


def create_generator(seed: int, epoch: int | None, index: int) -> np.random.Generator:
    """Return the generator of one example in one epoch (counter-based; Salmon et al., 2011)."""
    key = (seed, EVALUATION if epoch is None else epoch)
    return np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, index)))
