"""The share of outputs cut off, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import written


class CutOff(module.OfCounts):
    """Share of generated texts that reached the maximum length; `cut` is 1 for such a text, otherwise 0.

    Source: counted by hfpipe.
    """

    options = [{"cut": module.INTEGER}]
    metric = written.CutOff
