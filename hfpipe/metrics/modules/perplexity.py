"""Perplexity, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import language, module


class Perplexity(module.OfCounts):
    """exp of the summed `nats` over the summed `tokens`, one number of each a text."""

    options = [{"nats": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.Perplexity
