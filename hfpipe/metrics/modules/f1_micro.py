"""F1, micro average, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module


class F1Micro(module.AveragedF1):
    """F1 of the classes, micro average.

    Source: `sklearn.metrics.f1_score` with `average="micro"`.
    """

    average = "micro"
