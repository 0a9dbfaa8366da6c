"""F1, weighted average, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module


class F1Weighted(module.AveragedF1):
    """F1 of the classes, weighted by the number of their examples.

    Source: `sklearn.metrics.f1_score` with `average="weighted"`.
    """

    average = "weighted"
