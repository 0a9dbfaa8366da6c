"""TER, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module, overlap


class Ter(module.OfTranslations):
    """sacrebleu's translation edit rate, in percent; lower is better."""

    metric = overlap.Ter
