"""Scores made from each class' hits, guesses and golds.

scikit-learn defines every one of these but needs all examples at once; here the same numbers come from
sums that merge. The tests hold them equal to scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Literal

import numpy as np

from hfpipe.metrics.metric import Metric, ratio

if TYPE_CHECKING:
    from hfpipe.types import Columns


class Confusion(Metric):
    """Base of the scores from counts a class: statistics of shape (n, 3 * classes).

    Reads `reference` and `prediction`: class ids of shape (n,), or 0 and 1 of shape (n, classes) for several
    labels.
    """

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
        reference, prediction = self._marks(columns["reference"]), self._marks(columns["prediction"])
        return np.concatenate([reference & prediction, prediction, reference], axis=1).astype(np.float64)

    def _marks(self, classes: np.ndarray) -> np.ndarray:
        return classes.astype(bool) if classes.ndim > 1 else classes[:, None] == np.arange(self.classes)

    def counts(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return hits, guesses and golds of each class, shape (..., classes) each."""
        hits, predictions, references = np.split(sums, 3, axis=-1)
        return hits, predictions, references


class Accuracy(Confusion):
    """Share of examples whose guess is the gold class."""

    def __init__(self, classes: int) -> None:
        super().__init__("accuracy", classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, _, references = self.counts(sums)
        return ratio(hits.sum(-1), references.sum(-1))


class BalancedAccuracy(Confusion):
    """Mean recall of the classes that occur in gold, as `sklearn.metrics.balanced_accuracy_score`."""

    def __init__(self, classes: int) -> None:
        super().__init__("balanced_accuracy", classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, _, references = self.counts(sums)
        return ratio(ratio(hits, references).sum(-1), (references > 0).sum(-1))


class F1(Confusion):
    """F1 averaged over classes, as `sklearn.metrics.f1_score`.

    A class in neither gold nor guess is left out of the macro mean; with `absent="zero"`, scikit-learn's
    way with several labels an example, it counts as 0.
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

    @property
    def signature(self) -> str:
        return f"{super().signature}|absent:{self.absent}" if self.average == "macro" else super().signature

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predictions, references = self.counts(sums)
        if self.average == "micro":
            return ratio(2 * hits.sum(-1), (predictions + references).sum(-1))
        weights = references if self.average == "weighted" else self._present(predictions + references)
        return ratio((ratio(2 * hits, predictions + references) * weights).sum(-1), weights.sum(-1))

    def _present(self, seen: np.ndarray) -> np.ndarray:
        return np.ones_like(seen) if self.absent == "zero" else (seen > 0).astype(np.float64)


class ClassF1(Confusion):
    """F1 of one class, 0 where the class occurs in neither gold nor guess."""

    def __init__(self, number: int, label: str, classes: int) -> None:
        super().__init__(f"f1[{label}]", classes)
        self.number = number

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predictions, references = (each[..., self.number] for each in self.counts(sums))
        return ratio(2 * hits, predictions + references)


class Matthews(Confusion):
    """Matthews' correlation for any number of classes (Gorodkin, 2004), 0 where it is undefined."""

    def __init__(self, classes: int) -> None:
        super().__init__("matthews", classes)

    def value(self, sums: np.ndarray) -> np.ndarray:
        hits, predictions, references = self.counts(sums)
        n = references.sum(-1)
        together = hits.sum(-1) * n - (predictions * references).sum(-1)
        apart = (n**2 - (predictions**2).sum(-1)) * (n**2 - (references**2).sum(-1))
        return ratio(together, np.sqrt(apart))
