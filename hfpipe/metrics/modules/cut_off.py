"""The share of outputs cut off, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import written


class CutOff(module.OfCounts):
    """Share of outputs that hit the length limit, of `cut`: 1 for one that did, else 0.

    Source: counted by hfpipe.
    """

    options = [{"cut": module.INTEGER}]
    metric = written.CutOff
