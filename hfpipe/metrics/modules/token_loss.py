"""The loss per token, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class TokenLoss(module.OfCounts):
    """Cross-entropy per target token: the summed `nll` (nats) over the number of `tokens`.

    Source: cross-entropy, as Transformers' language models return it.
    """

    options = [{"nll": module.NUMBER, "tokens": module.INTEGER}]
    metric = language.TokenLoss
