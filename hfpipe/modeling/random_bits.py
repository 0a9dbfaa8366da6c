"""Fast dropout on a CPU from random bits; torch draws one number per element, slower than some layers.

`bernoulli_` takes 6 ns per element (measured on an EPYC), one sixth of a training step for a BERT of 384
dimensions. Here 64 random bits are used for four elements, so probabilities are multiples of 2**-16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16
"""Number of values of the random bits of one element."""


def apply_dropout(tensor: Tensor, probability: float) -> Tensor:
    """Set random elements of a tensor to 0 and scale up the others, as `dropout` does in training.

    Random bits come from torch's default generator. A probability is rounded to a multiple of 2**-16, and the
    scale is that of the rounded probability.
    """
    dropped = round(probability * LEVELS)
    if not 0 < dropped < LEVELS:
        return F.dropout(tensor, probability)
    bits = torch.empty(-(-tensor.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    each = bits.view(torch.int16)[: tensor.numel()].view(tensor.shape)
    kept = torch.empty(tensor.shape, dtype=tensor.dtype)
    torch.ge(each, dropped - LEVELS // 2, out=kept)
    return tensor * kept.mul_(LEVELS / (LEVELS - dropped))


class BitDropout(nn.Dropout):
    """`torch.nn.Dropout` implemented by `apply_dropout` on a CPU."""

    def forward(self, tensor: Tensor) -> Tensor:
        """Apply dropout in training; otherwise return the tensor unchanged."""
        if not self.training or self.inplace or tensor.device.type != "cpu":
            return super().forward(tensor)
        return apply_dropout(tensor, self.p)


@contextmanager
def use_fast_dropout(model: nn.Module) -> Iterator[None]:
    """Temporarily make the dropout layers of a model use `apply_dropout`, except subclasses of `Dropout`."""
    layers = [module for module in model.modules() if type(module) is nn.Dropout]
    for layer in layers:
        layer.__class__ = BitDropout
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Dropout
