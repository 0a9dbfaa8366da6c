"""Scores that depend on the order of the guesses alone: ROC-AUC, average precision and Spearman's rho.

scikit-learn and SciPy define them for one sample; here the same numbers come for many weightings of it at
once, from weights summed in the order of the guesses. The tests hold them equal to theirs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hfpipe.metrics.metric import ratio
from hfpipe.metrics.whole import WholeMetric

if TYPE_CHECKING:
    from hfpipe.types import Columns


def ranked_classes(labels: Sequence[str]) -> list[WholeMetric]:
    """Return the metrics of the order in which a classifier puts the examples, for each class.

    They read `reference` (classes by their `labels`, or 0 and 1 of shape (n, classes)) and `scores`
    (probabilities, shape (n, classes)).
    """
    return [RocAuc(labels), AveragePrecision(labels)]


class _OneVersusRest(WholeMetric):
    """Base of the scores of one class against the others, averaged over the classes.

    Reads `reference` and `scores` (probabilities, shape (n, classes)). `labels` are the classes as
    `reference` (n,) names them, in the order of the columns of `scores`; with several labels per example,
    `reference` has shape (n, classes) and holds 0 and 1. Of two classes only the second is scored, as
    scikit-learn does it. A class that no example has, or every one, is left out of the mean.
    """

    reads = ("reference", "scores")
    undefined = "the split has a single class"
    bounds = (0.0, 1.0)

    def __init__(self, labels: Sequence[Any]) -> None:
        self.labels = list(labels)

    @property
    def signature(self) -> str:
        return f"{self.name}|average:macro|classes:{len(self.labels)}|absent:left_out"

    def value(self, columns: Columns, weights: np.ndarray) -> np.ndarray:
        each = np.stack([self.of_class(*one, weights) for one in self._classes(columns)])
        known = np.isfinite(each)
        total = np.where(known, each, 0).sum(0)
        return np.divide(total, known.sum(0), out=np.full(total.shape, np.nan), where=known.any(0))

    def _classes(self, columns: Columns) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield for each class which examples are of it, bool (n,), and its probabilities (n,)."""
        reference, scores = columns["reference"], columns["scores"]
        if reference.ndim > 1:
            yield from zip(reference.astype(bool).T, scores.T, strict=True)
            return
        asked = range(1, 2) if len(self.labels) == 2 else range(len(self.labels))
        yield from ((reference == self.labels[number], scores[:, number]) for number in asked)

    @abstractmethod
    def of_class(self, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the score of one class: bool (n,), (n,) and (n, k) → (k,), NaN where it is not defined."""


class RocAuc(_OneVersusRest):
    """Area under the ROC curve, one class against the rest, as `sklearn.metrics.roc_auc_score`.

    The share of pairs of an example of the class and another one that the scores put in order, ties half.
    """

    name = "roc_auc"

    def of_class(self, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        below, up_to = _sum_below(scores[~positive], weights[~positive], scores[positive])
        hits = weights[positive].astype(np.float64)
        ordered = (hits * (below + up_to)).sum(0) / 2
        pairs = hits.sum(0) * weights[~positive].sum(0, dtype=np.float64)
        return _ratio_or_nan(ordered, pairs)


class AveragePrecision(_OneVersusRest):
    """Precision at each example of the class, averaged, as `sklearn.metrics.average_precision_score`."""

    name = "average_precision"

    def of_class(self, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        hits = weights[positive].astype(np.float64)
        total, references = weights.sum(0, dtype=np.float64), hits.sum(0)
        found = references - _sum_below(scores[positive], weights[positive], scores[positive])[0]
        taken = total - _sum_below(scores, weights, scores[positive])[0]
        average = _ratio_or_nan((hits * ratio(found, taken)).sum(0), references)
        return np.where(references < total, average, np.nan)


class Spearman(WholeMetric):
    """Spearman's rank correlation, as `scipy.stats.spearmanr`; reads `reference` and `prediction`, float
    (n,).

    Ties have their mean rank.
    """

    name = "spearman"
    reads: ClassVar[tuple[str, ...]] = ("reference", "prediction")
    undefined = "gold or guess is constant"

    @property
    def signature(self) -> str:
        return "spearman|ties:average"

    def value(self, columns: Columns, weights: np.ndarray) -> np.ndarray:
        weight = weights.astype(np.float64)
        n = weight.sum(0)
        # Twice each rank's distance from the mean rank: whole numbers, so nothing is lost to rounding.
        reference, prediction = (
            sum(_sum_below(columns[name], weights, columns[name])) - n for name in self.reads
        )
        spread = (weight * reference * reference).sum(0) * (weight * prediction * prediction).sum(0)
        return _ratio_or_nan((weight * reference * prediction).sum(0), np.sqrt(spread))


def _sum_below(values: np.ndarray, weights: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight of the values below each of `at`, and of those up to it: float64, (len(at), k)."""
    order = np.argsort(values, kind="stable")
    sums = np.zeros((len(values) + 1, weights.shape[1]))
    np.cumsum(weights[order], axis=0, dtype=np.float64, out=sums[1:])
    below, up_to = (np.searchsorted(values[order], at, side=side) for side in ("left", "right"))
    return sums[below], sums[up_to]


def _ratio_or_nan(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
