"""ROC-AUC, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import ranking


class RocAuc(module.OfRanked):
    """Area under the ROC curve of each class against all others, averaged over the classes.

    Source: `sklearn.metrics.roc_auc_score` with `multi_class="ovr"`.
    """

    metric = ranking.RocAuc
