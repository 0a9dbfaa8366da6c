"""Scores that depend only on the order of predictions: ROC-AUC, average precision and Spearman's rho.

scikit-learn and SciPy define them for one sample; here they are computed for many weightings at once, from
weights summed in the order of predictions. Tests compare them with both libraries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hfpipe.metrics.metric import divide_or_zero
from hfpipe.metrics.whole import WholeMetric

if TYPE_CHECKING:
    from hfpipe.types import Columns


def create_ranking_metrics(labels: Sequence[str]) -> list[WholeMetric]:
    """Return the metrics of a classifier's ranking of the examples for each class.

    They read `reference` (classes by their `labels`, or 0 and 1 of shape (n, classes)) and `scores`
    (probabilities, shape (n, classes)).
    """
    return [RocAuc(labels), AveragePrecision(labels)]


class _OneVersusRest(WholeMetric):
    """Base class of scores of one class against the others, averaged over the classes.

    Reads `reference` and `scores` (probabilities, shape (n, classes)). `labels` are the classes in
    `reference` (n,), in the order of the columns of `scores`; with several labels per example, `reference`
    has shape (n, classes) and holds 0 and 1. With two classes, only the second is scored, as in scikit-learn.
    A class in no example or in every example is excluded from the mean.
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
        each = np.stack([self.score_class(*one, weights) for one in self._iterate_classes(columns)])
        known = np.isfinite(each)
        total = np.where(known, each, 0).sum(0)
        return np.divide(total, known.sum(0), out=np.full(total.shape, np.nan), where=known.any(0))

    def _iterate_classes(self, columns: Columns) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the mask of the examples of each class, bool (n,), and its probabilities (n,)."""
        reference, scores = columns["reference"], columns["scores"]
        if reference.ndim > 1:
            yield from zip(reference.astype(bool).T, scores.T, strict=True)
            return
        asked = range(1, 2) if len(self.labels) == 2 else range(len(self.labels))
        yield from ((reference == self.labels[number], scores[:, number]) for number in asked)

    @abstractmethod
    def score_class(self, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the score of one class: bool (n,), (n,) and (n, k) → (k,), NaN if it is not defined."""


class RocAuc(_OneVersusRest):
    """Area under the ROC curve, one class against the rest, as `sklearn.metrics.roc_auc_score`.

    The fraction of correctly ordered pairs of an example of the class and another one; ties count half.
    """

    name = "roc_auc"

    def score_class(self, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        below, up_to = _sum_below(scores[~positive], weights[~positive], scores[positive])
        hits = weights[positive].astype(np.float64)
        ordered = (hits * (below + up_to)).sum(0) / 2
        pairs = hits.sum(0) * weights[~positive].sum(0, dtype=np.float64)
        return _divide_or_nan(ordered, pairs)


class AveragePrecision(_OneVersusRest):
    """Precision at each example of the class, averaged, as `sklearn.metrics.average_precision_score`."""

    name = "average_precision"

    def score_class(self, positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
        hits = weights[positive].astype(np.float64)
        total, references = weights.sum(0, dtype=np.float64), hits.sum(0)
        found = references - _sum_below(scores[positive], weights[positive], scores[positive])[0]
        taken = total - _sum_below(scores, weights, scores[positive])[0]
        average = _divide_or_nan((hits * divide_or_zero(found, taken)).sum(0), references)
        return np.where(references < total, average, np.nan)


class Spearman(WholeMetric):
    """Spearman's rank correlation, as `scipy.stats.spearmanr`.

    Reads `reference` and `prediction`, float (n,). Ties get their mean rank.
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
        # Twice each rank's distance from the mean rank: integers, so there is no rounding.
        reference, prediction = (
            sum(_sum_below(columns[name], weights, columns[name])) - n for name in self.reads
        )
        spread = (weight * reference * reference).sum(0) * (weight * prediction * prediction).sum(0)
        return _divide_or_nan((weight * reference * prediction).sum(0), np.sqrt(spread))


def _sum_below(values: np.ndarray, weights: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the total weight of values less than each of `at`, and up to it: float64, (len(at), k)."""
    order = np.argsort(values, kind="stable")
    sums = np.zeros((len(values) + 1, weights.shape[1]))
    np.cumsum(weights[order], axis=0, dtype=np.float64, out=sums[1:])
    below, up_to = (np.searchsorted(values[order], at, side=side) for side in ("left", "right"))
    return sums[below], sums[up_to]


def _divide_or_nan(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below != 0)
