"""Accuracy over sets of labels, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import classification


class SubsetAccuracy(module.OfLabels):
    """Share of examples whose labels are all predicted correctly.

    Source: `sklearn.metrics.accuracy_score` of lists of labels.
    """

    metric = classification.SubsetAccuracy
