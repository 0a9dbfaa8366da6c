"""Pseudo-perplexity, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class PseudoPerplexity(module.OfCounts):
    """Perplexity of a masked model: each token is predicted from all others of its text.

    Source: Salazar et al., 2020, section 2.4.
    """

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.PseudoPerplexity
