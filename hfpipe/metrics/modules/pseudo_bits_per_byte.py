"""Bits per byte of the pseudo-likelihood, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class PseudoBitsPerByte(module.OfCounts):
    """Bits for a byte of text, of the `nll` of tokens guessed each from all the others.

    Source: Salazar et al., 2020, divided by bytes in place of tokens.
    """

    options = [{"nll": module.NUMBER, "bytes": module.INTEGER}]
    metric = language.PseudoBitsPerByte
