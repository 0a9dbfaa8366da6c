"""A metric as a sum of statistics an example and a function of that sum.

Sums merge across batches and processes in any order, and reweighting them gives the bootstrap, so one
streaming pass yields every score and its interval. This is how sacrebleu computes corpus scores from
sentence statistics (Post, 2018).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from hfpipe.types import Columns


ROW_WEIGHT = "row_weight"
"""Column in which a tally gives the weight of each row to metrics that weigh rows."""


class Metric(ABC):
    """A score of a whole split made from statistics that add up over its examples."""

    name: str
    """As written in `require` and in the table of scores."""
    higher_is_better: ClassVar[bool] = True
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    """Lowest and highest value that such a score can have."""
    is_proportion: bool = False
    """Whether the score is a number of successes in a number of trials, as `proportion` tells."""
    scale: float = 1.0
    """What a proportion of 1 is written as: 100 where the score is in percent."""
    weighs_rows: bool = False
    """Whether the score is given a second time with weighted rows, where rows have weights."""

    @property
    def family(self) -> Hashable:
        """Metrics of one family have the same `stats`, which a tally then makes and keeps only once."""
        return self.name

    @property
    @abstractmethod
    def signature(self) -> str:
        """What defines the number, as `name|key:value|key:value`; a tally adds interval and version."""

    @abstractmethod
    def stats(self, columns: Columns) -> np.ndarray:
        """Return the statistics of each example: float64, shape (n, k)."""

    @abstractmethod
    def value(self, sums: np.ndarray) -> np.ndarray:
        """Turn summed statistics into scores: shape (..., k) → (...)."""

    def undefined(self, sums: np.ndarray) -> str | None:
        """Return why a system has no such score, given its sums, shape (k,); None where it has one."""
        return None

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return successes and trials, (..., k) → (...) each; `scale` times their ratio is the score."""
        raise NotImplementedError

    def evidence(self, sums: np.ndarray) -> float:
        """Return on how many examples a perfect score rests at most, shape (k,) → (); infinity for all.

        Fewer than there are where a rare class counts as much as any other.
        """
        return float("inf")

    def units(self, sums: np.ndarray) -> float | None:
        """Return how many units of a system's own, as tokens, the score is an average of, shape (k,) → ().

        None where every system is averaged over the same. Systems with other units do not compare.
        """
        return None


def objects(values: Iterable[Any]) -> np.ndarray:
    """Return an array with each value as it is, lists too: object, shape (n,)."""
    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with 0 for 0/0, as scikit-learn's `zero_division` does by default."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


class Mean(Metric):
    """Base of the scores that are a mean over examples."""

    @abstractmethod
    def each(self, columns: Columns) -> np.ndarray:
        """Return the number whose mean is the score: one an example, shape (n,)."""

    @property
    def signature(self) -> str:
        return f"{self.name}|average:examples"

    def stats(self, columns: Columns) -> np.ndarray:
        each = np.asarray(self.each(columns), dtype=np.float64)
        return np.stack([each, np.ones_like(each)], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 0], sums[..., 1])


class Share(Mean):
    """Base of the scores that are a share of examples: `each` is 0 or 1."""

    bounds = (0.0, 1.0)
    is_proportion = True

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., 0], sums[..., 1]


class Loss(Mean):
    """The mean loss of an example in nats, from the column `nll`."""

    higher_is_better = False
    name = "loss"

    @property
    def signature(self) -> str:
        return "loss|unit:nats|average:examples"

    def each(self, columns: Columns) -> np.ndarray:
        return columns["nll"]
