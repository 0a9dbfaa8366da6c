"""Perplexity, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class Perplexity(module.OfCounts):
    """exp of the summed `nll` (nats) over the number of target `tokens`, summed over all texts.

    Source: Jelinek et al., 1977; windows as in Transformers' guide to perplexity.
    """

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.Perplexity
