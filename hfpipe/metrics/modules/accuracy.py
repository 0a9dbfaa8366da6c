"""Accuracy, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores import classification, confusion

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Accuracy(module.OfClasses):
    """Share of examples whose prediction equals the reference.

    With several labels per example, all of them have to be equal.

    Source: `sklearn.metrics.accuracy_score`.
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        if columns["reference"].ndim > 1:
            return [classification.SubsetAccuracy("accuracy")]
        return [confusion.Accuracy(len(columns["labels"]))]
