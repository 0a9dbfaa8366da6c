"""chrF, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import overlap


class Chrf(module.OfTranslations):
    """chrF2: F-score of character n-grams up to 6, recall weighted twice, from 0 to 100.

    Source: sacrebleu; Popović, 2015.
    """

    metric = overlap.Chrf
