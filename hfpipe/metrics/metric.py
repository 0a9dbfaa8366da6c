"""A metric as a function of the sum of per-example statistics.

Sums can be merged across batches and processes in any order, and reweighting gives the bootstrap, so one
streaming pass yields every score and its interval. sacrebleu computes corpus scores from sentence statistics
in the same way (Post, 2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from hfpipe.types import Columns


ROW_WEIGHT = "row_weight"
"""Column with the weight of each row, which a tally adds for metrics that weight rows."""


class Metric(ABC):
    """A score of a split that is computed from statistics summed over its examples."""

    name: str
    """Name in `require` and in the table of scores."""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    """Minimum and maximum of the score."""
    is_proportion: bool = False
    """Whether the score is a proportion: successes divided by trials, see `proportion`."""
    scale: float = 1.0
    """Value of a proportion of 1: 100 for a score in percent."""
    weighs_rows: bool = False
    """Whether the score is also computed with weighted rows, if rows have weights."""

    @property
    def family(self) -> Hashable:
        """Metrics of one family have the same `stats`, which a tally computes and stores only once."""
        return self.name

    @property
    @abstractmethod
    def signature(self) -> str:
        """Definition of the score, as `name|key:value|key:value`; a tally adds interval and version."""

    @abstractmethod
    def stats(self, columns: Columns) -> np.ndarray:
        """Return the statistics of each example: float64, shape (n, k)."""

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """Turn summed statistics into scores: shape (..., k) → (...)."""

    def undefined(self, sums: np.ndarray) -> str | None:
        """Return why a system has no such score, given its sums, shape (k,); None if it has one."""
        return None

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return successes and trials, (..., k) → (...) each; `scale` times their ratio is the score."""
        raise NotImplementedError

    def evidence(self, sums: np.ndarray) -> float:
        """Return the number of examples that a perfect score depends on, shape (k,) → (); infinity for all.

        It is smaller than the number of examples if rare classes have the same weight as others.
        """
        return float("inf")

    def units(self, sums: np.ndarray) -> float | None:
        """Return the number of system-specific units, such as tokens, in the average, shape (k,) → ().

        None if all systems are averaged over the same units. Systems with different units are not compared.
        """
        return None


def to_object_array(values: Iterable[Any]) -> np.ndarray:
    """Return an array of the unchanged values, including lists: object, shape (n,)."""
    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array


def divide_or_zero(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 for 0/0, as scikit-learn's `zero_division` does by default."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


class Mean(Metric):
    """Base class of scores that are means over examples."""

    @abstractmethod
    def each(self, columns: Columns) -> np.ndarray:
        """Return the values whose mean is the score: one per example, shape (n,)."""

    @property
    def signature(self) -> str:
        return f"{self.name}|average:examples"

    def stats(self, columns: Columns) -> np.ndarray:
        each = np.asarray(self.each(columns), dtype=np.float64)
        return np.stack([each, np.ones_like(each)], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(sums[..., 0], sums[..., 1])


class Share(Mean):
    """Base class of scores that are proportions of examples: `each` is 0 or 1."""

    bounds = (0.0, 1.0)
    is_proportion = True

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., 0], sums[..., 1]


class Loss(Mean):
    """The mean loss per example in nats, from the column `nll`."""

    higher_is_better = False
    name = "loss"

    @property
    def signature(self) -> str:
        return "loss|unit:nats|average:examples"

    def each(self, columns: Columns) -> np.ndarray:
        return columns["nll"]
