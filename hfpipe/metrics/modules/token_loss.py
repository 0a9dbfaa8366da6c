"""The loss a token, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class TokenLoss(module.OfCounts):
    """Nats a target token, of the `nll` and the number of `tokens` of each text.

    Source: cross-entropy, as Transformers' language models return it.
    """

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.TokenLoss
