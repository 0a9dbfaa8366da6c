"""Average precision, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import ranking


class AveragePrecision(module.OfRanked):
    """Average precision of each class against all others, averaged over the classes.

    The precision at each example of the class, with examples sorted by the probability of the class.

    Source: `sklearn.metrics.average_precision_score`.
    """

    metric = ranking.AveragePrecision
