"""chrF, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import overlap


class Chrf(module.OfTranslations):
    """sacrebleu's chrF, from 0 to 100.

    Source: sacrebleu; Popović, 2015.
    """

    metric = overlap.Chrf
