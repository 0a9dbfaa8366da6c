"""The Hamming loss, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import classification


class HammingLoss(module.OfLabels):
    """Share of labels guessed wrongly; an example's are a list of 0 and 1.

    Source: `sklearn.metrics.hamming_loss`.
    """

    metric = classification.HammingLoss
