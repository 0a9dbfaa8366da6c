"""Spearman's correlation, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import ranking


class Spearman(module.OfNumbers):
    """Spearman's rank correlation; ties get their mean rank.

    Source: `scipy.stats.spearmanr`.
    """

    metric = ranking.Spearman
