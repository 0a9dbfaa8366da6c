"""F1, macro average, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module


class F1Macro(module.AveragedF1):
    """F1 of the classes, macro average.

    Source: `sklearn.metrics.f1_score` with `average="macro"`.
    """

    average = "macro"
