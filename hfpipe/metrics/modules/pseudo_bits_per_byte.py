"""Bits per byte of the pseudo-likelihood, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class PseudoBitsPerByte(module.OfCounts):
    """Bits per byte of a masked model: each token is predicted from all others of its text.

    Source: Salazar et al., 2020, divided by bytes in place of tokens.
    """

    options = [{"nll": module.NUMBER, "bytes": module.INTEGER}]
    metric = language.PseudoBitsPerByte
