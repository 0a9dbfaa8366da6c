"""Pseudo-perplexity, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class PseudoPerplexity(module.OfCounts):
    """exp of the summed `nll` over the `tokens` of texts, each token guessed from all the others."""

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.PseudoPerplexity
