"""The metrics of classifiers with one label or several labels per example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import Loss, Mean, Metric, Share
from hfpipe.metrics.scores.calibration import Brier, CalibrationError
from hfpipe.metrics.scores.confusion import F1, Accuracy, BalancedAccuracy, ClassF1, Matthews

if TYPE_CHECKING:
    from hfpipe.types import Columns


def create_single_label_metrics(labels: Sequence[str]) -> list[Metric]:
    """Return the metrics of a classifier with one label per example.

    They read `reference` and `prediction` (class ids, shape (n,)), `scores` (probabilities, shape (n,
    classes)) and `nll` (loss, shape (n,)).
    """
    classes = len(labels)
    return [
        Accuracy(classes),
        F1("macro", classes),
        F1("micro", classes),
        F1("weighted", classes),
        BalancedAccuracy(classes),
        Matthews(classes),
        Loss(),
        CalibrationError(),
        Brier(),
        *(ClassF1(number, label, classes) for number, label in enumerate(labels)),
    ]


def create_multi_label_metrics(labels: Sequence[str]) -> list[Metric]:
    """Return the metrics of a classifier with any number of labels per example.

    They read `reference` and `prediction` (0 or 1, shape (n, classes)) and `nll` (loss, shape (n,)).
    """
    classes = len(labels)
    return [
        F1("micro", classes),
        F1("macro", classes, absent="zero"),
        SubsetAccuracy(),
        HammingLoss(),
        Loss(),
        *(ClassF1(number, label, classes) for number, label in enumerate(labels)),
    ]


class SubsetAccuracy(Share):
    """Fraction of examples whose set of labels is predicted exactly, as `sklearn.metrics.accuracy_score`."""

    weighs_rows = True

    def __init__(self, name: str = "subset_accuracy") -> None:
        self.name = name

    def each(self, columns: Columns) -> np.ndarray:
        return (columns["reference"] == columns["prediction"]).all(axis=1)


class HammingLoss(Mean):
    """Fraction of labels predicted wrongly, as `sklearn.metrics.hamming_loss`."""

    higher_is_better = False
    bounds = (0.0, 1.0)
    name = "hamming_loss"

    def each(self, columns: Columns) -> np.ndarray:
        return (columns["reference"] != columns["prediction"]).mean(axis=1)
