"""Bits per byte, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import language


class BitsPerByte(module.OfCounts):
    """Bits per byte of text: the summed `nll` (nats) of all texts, divided by ln 2 and their UTF-8 `bytes`.

    Source: nats / (ln 2 × bytes), as in The Pile (Gao et al., 2020).
    """

    options = [{"nll": module.NUMBER, "bytes": module.INTEGER}]
    metric = language.BitsPerByte
