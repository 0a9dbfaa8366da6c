"""A score of a split, with the data for its interval and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hfpipe.metrics.resampling import Sample


@dataclass(frozen=True)
class Proportion:
    """A score as a number of successes in a number of trials."""

    successes: float
    trials: float
    single: bool
    """Whether each unit is at most one trial, so that the trials are independent."""
    blocks: np.ndarray
    """Successes and trials in each block of units, shape (blocks, 2)."""
    scale: float = 1.0
    """Value of a proportion of 1: 100 for percent."""


class Exchange(Protocol):
    """Outputs of a system that can be exchanged with those of another."""

    def differences(self, other: Any) -> np.ndarray | None:
        """Return the differences of the scores after outputs of random units were exchanged, shape (tosses,).

        None if the two cannot be exchanged.
        """


@dataclass(frozen=True)
class Series:
    """A score over all examples, over each resample and without each block."""

    name: str
    values: np.ndarray
    """Shape (resamples + 1,), all examples first; NaN if a resample has no value."""
    blocks: np.ndarray
    """The score without each block of units, shape (blocks,); NaN if it has no value."""
    n: int
    """Number of examples."""
    sample: Sample
    """The dependence between examples."""
    seed: int
    higher_is_better: bool
    signature: str
    """Definition of the score; interval and version are added to it."""
    bounds: tuple[float | None, float | None] = (None, None)
    """Minimum and maximum of the score."""
    evidence: float = float("inf")
    """Number of examples that a perfect score depends on, see `Metric.evidence`."""
    averaged: float | None = None
    """Number of system-specific units in the average, see `Metric.units`."""
    proportion: Proportion | None = None
    outcomes: np.ndarray | None = None
    """For each row 0 for no trial, 1 for a failure, 2 for a success; None if rows are not such trials."""
    exchange: Exchange | None = None
    members: Mapping[str, Series] = field(default_factory=dict)
    """The score of each training, if this is their mean."""
    by_fold: Mapping[str, float] = field(default_factory=dict)
    """The score of each fold, if each was predicted by a separate training."""

    @property
    def units(self) -> int:
        """Number of resampled units: examples, or groups of dependent examples."""
        return self.sample.count

    @property
    def resampling(self) -> str:
        """How the score was resampled, as in its signature."""
        column = self.sample.cluster
        cluster = f"|cluster:{column}|groups:{self.units}" if column is not None else ""
        return f"resamples:{len(self.values) - 1}|seed:{self.seed}{cluster}"
