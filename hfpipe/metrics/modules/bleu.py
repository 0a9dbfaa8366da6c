"""BLEU, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module, overlap


class Bleu(module.OfTranslations):
    """sacrebleu's BLEU, from 0 to 100."""

    metric = overlap.Bleu
