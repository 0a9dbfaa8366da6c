"""Perplexity, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class Perplexity(module.OfCounts):
    """exp of the summed `nll` over the summed `tokens`, one number of each a text."""

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.Perplexity
