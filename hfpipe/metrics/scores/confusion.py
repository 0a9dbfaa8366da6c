"""Scores from the numbers of correct predictions, predictions and references per class.

scikit-learn defines all of these but needs all examples at once; here they are computed from mergeable sums.
Tests compare them with scikit-learn.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Literal

import numpy as np

from hfpipe.metrics.metric import Metric, divide_or_zero

if TYPE_CHECKING:
    from hfpipe.types import Columns


class Confusion(Metric):
    """Base class of scores from counts per class: statistics of shape (n, 3 * classes).

    Reads `reference` and `prediction`: class ids of shape (n,), or 0 and 1 of shape (n, classes) for several
    labels.
    """

    bounds = (0.0, 1.0)

    def __init__(self, name: str, classes: int) -> None:
        self.name = name
        self.classes = classes

    @property
    def family(self) -> Hashable:
        return ("confusion", self.classes)

    @property
    def signature(self) -> str:
        return f"{self.name}|classes:{self.classes}"

    def stats(self, columns: Columns) -> np.ndarray:
        reference, prediction = (
            self._to_indicators(columns["reference"]),
            self._to_indicators(columns["prediction"]),
        )
        return np.concatenate([reference & prediction, prediction, reference], axis=1).astype(np.float64)

    def _to_indicators(self, classes: np.ndarray) -> np.ndarray:
        return classes.astype(bool) if classes.ndim > 1 else classes[:, None] == np.arange(self.classes)

    def counts(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return correct predictions, predictions and references of each class, shape (..., classes) each."""
        hits, predictions, references = np.split(sums, 3, axis=-1)
        return hits, predictions, references


class Accuracy(Confusion):
    """Fraction of examples whose prediction equals the reference."""

    is_proportion = True
    weighs_rows = True

    def __init__(self, classes: int) -> None:
        super().__init__("accuracy", classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, _, references = self.counts(sums)
        return hits.sum(-1), references.sum(-1)


class BalancedAccuracy(Confusion):
    """Mean recall of the classes in the references, as `sklearn.metrics.balanced_accuracy_score`."""

    def __init__(self, classes: int) -> None:
        super().__init__("balanced_accuracy", classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, _, references = self.counts(sums)
        return divide_or_zero(divide_or_zero(hits, references).sum(-1), (references > 0).sum(-1))

    def evidence(self, sums: np.ndarray) -> float:
        return _compute_effective_count(self.counts(sums)[2])


class F1(Confusion):
    """F1 averaged over classes, as `sklearn.metrics.f1_score`.

    A class in neither references nor predictions is excluded from the macro mean; with `absent="zero"`, as in
    scikit-learn with several labels per example, it counts as 0.
    """

    def __init__(
        self,
        average: Literal["macro", "micro", "weighted"],
        classes: int,
        absent: Literal["left_out", "zero"] = "left_out",
    ) -> None:
        super().__init__(f"f1_{average}", classes)
        self.average = average
        self.absent = absent
        self.is_proportion = average == "micro"
        self.weighs_rows = average != "weighted"  # it is already weighted by classes

    @property
    def signature(self) -> str:
        return f"{super().signature}|absent:{self.absent}" if self.average == "macro" else super().signature

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, predictions, references = self.counts(sums)
        return hits.sum(-1), (predictions + references).sum(-1) / 2

    def evidence(self, sums: np.ndarray) -> float:
        _, predictions, references = self.counts(sums)
        return (
            _compute_effective_count((predictions + references) / 2)
            if self.average == "macro"
            else float("inf")
        )

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predictions, references = self.counts(sums)
        if self.average == "micro":
            return divide_or_zero(*self.proportion(sums))
        weights = (
            references if self.average == "weighted" else self._count_as_present(predictions + references)
        )
        return divide_or_zero(
            (divide_or_zero(2 * hits, predictions + references) * weights).sum(-1), weights.sum(-1)
        )

    def _count_as_present(self, seen: np.ndarray) -> np.ndarray:
        return np.ones_like(seen) if self.absent == "zero" else (seen > 0).astype(np.float64)


class ClassF1(Confusion):
    """F1 of one class, 0 if the class is in neither references nor predictions."""

    is_proportion = True

    def __init__(self, number: int, label: str, classes: int) -> None:
        super().__init__(f"f1[{label}]", classes)
        self.number = number

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hits, predictions, references = (each[..., self.number] for each in self.counts(sums))
        return hits, (predictions + references) / 2


class Matthews(Confusion):
    """Matthews' correlation for any number of classes (Gorodkin, 2004), 0 if it is undefined."""

    bounds = (-1.0, 1.0)

    def __init__(self, classes: int) -> None:
        super().__init__("matthews", classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predictions, references = self.counts(sums)
        n = references.sum(-1)
        together = hits.sum(-1) * n - (predictions * references).sum(-1)
        apart = (n**2 - (predictions**2).sum(-1)) * (n**2 - (references**2).sum(-1))
        return divide_or_zero(together, np.sqrt(apart))


def _compute_effective_count(counts: np.ndarray) -> float:
    """Return the effective number of examples of a mean over classes: (classes,) → (), without empty classes.

    The mean of proportions has the variance of one proportion of so many examples: the harmonic mean of the
    counts times the number of classes.
    """
    there = counts[counts > 0]
    return float(len(there) ** 2 / (1 / there).sum()) if len(there) else 0.0
