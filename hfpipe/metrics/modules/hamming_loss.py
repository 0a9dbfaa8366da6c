"""The Hamming loss, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import classification, module


class HammingLoss(module.OfLabels):
    """Share of labels guessed wrongly; an example's are a list of 0 and 1."""

    metric = classification.HammingLoss
