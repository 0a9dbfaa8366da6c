"""Pearson's correlation, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import regression


class Pearson(module.OfNumbers):
    """Pearson's correlation; 0 if predictions or references are constant.

    Source: `scipy.stats.pearsonr`.
    """

    metric = regression.Pearson
