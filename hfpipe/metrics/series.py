"""One score of a split, with all that its interval and its comparisons are made from."""

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
    """Whether each unit is one trial at most, so that the trials are independent."""
    blocks: np.ndarray
    """Successes and trials in each block of units, shape (blocks, 2)."""
    scale: float = 1.0
    """What a share of 1 is written as: 100 for percent."""


class Exchange(Protocol):
    """What a system put out, ready to be exchanged with what another did."""

    def differences(self, other: Any) -> np.ndarray | None:
        """Return the differences of the scores after outputs of random units were exchanged, shape (tosses,).

        None where the two cannot be exchanged.
        """


@dataclass(frozen=True)
class Series:
    """One score over all examples, over each resample and without each block."""

    name: str
    values: np.ndarray
    """Shape (resamples + 1,), all examples first; NaN where a resample has no value."""
    blocks: np.ndarray
    """The score without each block of units, shape (blocks,); NaN where that has no value."""
    n: int
    """Number of examples."""
    sample: Sample
    """Which of them depend on one another."""
    seed: int
    higher_is_better: bool
    signature: str
    """What defines the number; the interval and the version are added to it."""
    bounds: tuple[float | None, float | None] = (None, None)
    """Lowest and highest value of such a score."""
    evidence: float = float("inf")
    """On how many examples a perfect score rests at most, as `Metric.evidence` says."""
    averaged: float | None = None
    """How many units of the system's own the score is an average of, as `Metric.units` says."""
    proportion: Proportion | None = None
    outcomes: np.ndarray | None = None
    """For each row 0 for no trial, 1 for a failure, 2 for a success; None where rows are not such trials."""
    exchange: Exchange | None = None
    members: Mapping[str, Series] = field(default_factory=dict)
    """The same score of each of several trainings, where this is their mean."""
    by_fold: Mapping[str, float] = field(default_factory=dict)
    """The score of each fold's rows, where each was predicted by a training of its own."""

    @property
    def units(self) -> int:
        """Number of units that are drawn: examples, or groups of examples that depend on one another."""
        return self.sample.count

    @property
    def resampling(self) -> str:
        """How the score was resampled, as its signature says."""
        column = self.sample.cluster
        cluster = f"|cluster:{column}|groups:{self.units}" if column is not None else ""
        return f"resamples:{len(self.values) - 1}|seed:{self.seed}{cluster}"
