"""Accuracy over tokens, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class TokenAccuracy(module.OfCounts):
    """Share of target `tokens` that are predicted correctly (`correct`), summed over all texts.

    Source: the accuracy of Transformers' run_clm and run_mlm.
    """

    options = [{"correct": module.INTEGER, "tokens": module.INTEGER}]
    metric = language.TokenAccuracy
