"""Bits per byte, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class BitsPerByte(module.OfCounts):
    """Bits for a byte of text, of the summed `nll` and UTF-8 `bytes` of each text.

    Source: nats / (ln 2 × bytes), as in The Pile (Gao et al., 2020).
    """

    options = [{"nll": module.NUMBER, "bytes": module.INTEGER}]
    metric = language.BitsPerByte
