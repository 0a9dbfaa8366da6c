"""Balanced accuracy, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import confusion


class BalancedAccuracy(module.OfOneLabel):
    """Mean recall of the classes that occur in the references.

    Source: `sklearn.metrics.balanced_accuracy_score`.
    """

    metric = confusion.BalancedAccuracy
