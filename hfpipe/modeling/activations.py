"""GELU by torch's kernel for uncompiled models whose Transformers class computes it by eight operations.

GPT-2, T5 1.1, ALBERT and others (`gelu_new`, `gelu_fast`) keep several of the results for the backward pass,
each as large as the widest layer; the kernel keeps only its input. torch.compile fuses the operations itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import FastGELUActivation, NewGELUActivation


class FusedGELU(nn.Module):
    """GELU in its tanh approximation."""

    def forward(self, given: Tensor) -> Tensor:
        return F.gelu(given, approximate="tanh")


@contextmanager
def use_fused_gelu(model: nn.Module) -> Iterator[None]:
    """Temporarily make the GELU layers of a model with the tanh approximation use torch's kernel."""
    usual = {
        module: type(module)
        for module in model.modules()
        if type(module) in (NewGELUActivation, FastGELUActivation)
    }
    for module in usual:
        module.__class__ = FusedGELU
    try:
        yield
    finally:
        for module, kind in usual.items():
            module.__class__ = kind
