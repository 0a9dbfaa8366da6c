"""Pseudo-perplexity, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class PseudoPerplexity(module.OfCounts):
    """exp of the summed `nll` over the `tokens` of texts, each token guessed from all the others.

    Source: Salazar et al., 2020, section 2.4.
    """

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.PseudoPerplexity
