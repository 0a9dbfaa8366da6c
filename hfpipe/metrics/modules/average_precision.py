"""Average precision, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import ranking


class AveragePrecision(module.OfRanked):
    """Precision at each example of a class, averaged, one class against the rest.

    Source: `sklearn.metrics.average_precision_score`.
    """

    metric = ranking.AveragePrecision
