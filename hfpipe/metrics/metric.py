"""A metric as a sum of statistics an example and a function of that sum.

Sums merge across batches and processes in any order, and reweighting them gives the bootstrap, so one
streaming pass yields every score and its interval. This is how sacrebleu computes corpus scores from
sentence statistics (Post, 2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from hfpipe.contract import Columns


class Metric(ABC):
    """A score of a whole split made from statistics that add up over its examples."""

    name: str
    """As written in `require` and in the table of scores."""
    higher_is_better: ClassVar[bool] = True

    @property
    @abstractmethod
    def signature(self) -> str:
        """How the number is made, as `key:value|key:value`, library versions included."""

    @abstractmethod
    def stats(self, columns: Columns) -> np.ndarray:
        """Return the statistics of each example: float64, shape (n, k)."""

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """Turn summed statistics into scores: shape (..., k) → (...)."""
