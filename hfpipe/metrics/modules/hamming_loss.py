"""The Hamming loss, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import classification


class HammingLoss(module.OfLabels):
    """Share of labels that are predicted wrongly.

    Source: `sklearn.metrics.hamming_loss`.
    """

    metric = classification.HammingLoss
