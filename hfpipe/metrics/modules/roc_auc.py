"""ROC-AUC, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import ranking


class RocAuc(module.OfRanked):
    """Area under the ROC curve, one class against the rest, averaged over the classes."""

    metric = ranking.RocAuc
