"""F1 of each class, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores.confusion import ClassF1

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class F1ByClass(module.OfClasses):
    """F1 of each class by its name; 0 if the class occurs nowhere.

    Source: `sklearn.metrics.f1_score` with `average=None`.
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        labels = list(map(str, columns["labels"]))
        return [ClassF1(number, label, len(labels)) for number, label in enumerate(labels)]
