"""RMS norms and feed-forward layers for uncompiled models under autocast, without casts back to float32.

`T5LayerNorm` returns float32, which each of the three products after it casts on its own, and keeps four
tensors for the backward pass; T5's feed-forward layer casts its widest tensor to float32 and back. Values and
gradients differ by rounding only. torch.compile fuses these operations itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hfpipe.modeling.random_bits import BitDropout, draw_dropout_mask


class _Normalize(torch.autograd.Function):
    """Divides float32 rows by their root mean square, and returns them in another dtype."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        scale = torch.linalg.vector_norm(given, dim=-1, keepdim=True).square_()
        scale = scale.div_(given.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(given, weight, scale)
        return torch.mul(given * scale, weight, out=given.new_empty(given.shape, dtype=dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        given, weight, scale = ctx.saved_tensors
        normed = given * scale
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = (gradient * normed).reshape(-1, given.shape[-1]).sum(0)
        towards = gradient * weight
        share = (towards * normed).mean(-1, keepdim=True)
        return towards.sub_(normed.mul_(share)).mul_(scale), of_weight, None, None


class _ReLUAndDropout(torch.autograd.Function):
    """Computes dropout of ReLU, and keeps only the result, which the next layer keeps anyway, for backward.

    What is positive in it is what was positive before and not dropped.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, probability: float) -> Tensor:
        mask = draw_dropout_mask(given, probability)
        ctx.scale = mask.amax()
        result = given.relu().mul_(mask)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        [result] = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, result, 0).mul_(ctx.scale), None


def _normalize(module: Any, given: Tensor) -> Tensor:
    """Compute a norm of T5 in the dtype of autocast."""
    kind = given.device.type
    if given.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        usual: Tensor = module.usual.forward(module, given)
        return usual
    normed: Tensor = _Normalize.apply(
        given, module.weight, module.variance_epsilon, torch.get_autocast_dtype(kind)
    )
    return normed


def _feed_forward(module: Any, given: Tensor) -> Tensor:
    """Compute a feed-forward layer of T5, with or without a gate."""
    if not torch.is_autocast_enabled(given.device.type):
        usual: Tensor = module.usual.forward(module, given)
        return usual
    found: Tensor = module.wo(_compute_hidden(module, given))
    return found


def _compute_hidden(module: Any, given: Tensor) -> Tensor:
    """Compute the widest tensor of a feed-forward layer of T5."""
    if not hasattr(module, "wi"):
        return module.dropout(module.act(module.wi_0(given)) * module.wi_1(given))
    hidden = module.wi(given)
    if isinstance(module.act, nn.ReLU) and type(module.dropout) is BitDropout and module.training:
        dropped: Tensor = _ReLUAndDropout.apply(hidden, module.dropout.p)
        return dropped
    return module.dropout(module.act(hidden))


LEAN = {
    "LayerNorm": _normalize,
    "DenseActDense": _feed_forward,
    "DenseGatedActDense": _feed_forward,
}
"""End of the name of a layer of T5, in any of the models that copy it → function that computes it."""
COPIES = ("T5", "MT5", "UMT5", "LongT5", "Pix2StructText", "Pop2Piano", "SwitchTransformers")
"""What these names begin with."""


@contextmanager
def use_lean_layers(model: nn.Module) -> Iterator[None]:
    """Temporarily make the norms and feed-forward layers of a T5 compute in the dtype of autocast."""
    named = {start + end: function for start in COPIES for end, function in LEAN.items()}
    usual = {module: type(module) for module in model.modules() if type(module).__name__ in named}
    for module, kind in usual.items():
        module.__class__ = type(kind.__name__, (kind,), {"forward": named[kind.__name__], "usual": kind})
    try:
        yield
    finally:
        for module, kind in usual.items():
            module.__class__ = kind
