"""Attention of an uncompiled training on a CPU by matrix products, with one backward pass of its own.

Per operation, autograd keeps more tensors and copies queries, keys and values in both passes. torch's softmax
of bfloat16 takes up to three times as long as that of float32 for short rows, its gradient up to ten times
(measured on an EPYC): blocks of such rows are converted to float32, and stay in the caches meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hfpipe.modeling.random_bits import draw_dropout_mask

BLOCK = 2**18
"""Scores that are converted at once."""
SHORT = 128
"""Keys from which on the softmax of bfloat16 is faster; it is from 64 on for exactly 64."""
SHORTEST = 32
"""Keys from which on the gradient of the softmax of bfloat16 is faster."""


def attend_by_eager_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    *,
    scale: float,
    dropout: float,
) -> Tensor:
    """Return the attention output, shape (rows, length, heads, head size), contiguous.

    `query`, `key` and `value` have shape (rows, heads, length, head size). `mask` is bool, true where a query
    attends to a key, or is added to the scores as `bias` is; both broadcast to (rows, heads, queries, keys),
    and only `bias` gets a gradient.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    found: Tensor = _Products.apply(query, key, value, mask, bias, scale, dropout)
    return found


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        scale: float,
        dropout: float,
    ) -> Tensor:
        query, key, value = (query * scale).contiguous(), key.contiguous(), value.contiguous()
        scores = query @ key.transpose(-1, -2)
        weights = _compute_softmax(scores, mask, bias)
        kept = draw_dropout_mask(weights, dropout) if dropout else None
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = scale
        ctx.bias = None if bias is None else (bias.shape, bias.dtype)
        dropped = weights if kept is None else weights * kept
        return (dropped @ value).transpose(1, 2).contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, kept = ctx.saved_tensors
        given = given.transpose(1, 2).contiguous()
        dropped = weights if kept is None else weights * kept
        for_value = dropped.transpose(-1, -2) @ given
        for_weights = given @ value.transpose(-1, -2)
        if kept is not None:
            for_weights.mul_(kept)
        for_scores = _compute_softmax_gradient(for_weights, weights)
        for_bias = None
        if ctx.needs_input_grad[4]:
            shape, dtype = ctx.bias
            for_bias = for_scores.sum_to_size(shape).to(dtype)
        for_query = (for_scores @ key).mul_(ctx.scale)
        return for_query, for_scores.transpose(-1, -2) @ query, for_value, None, for_bias, None, None


def _compute_softmax(scores: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return the softmax of scores (rows, heads, queries, keys), which are overwritten."""
    keys = scores.shape[-1]
    if scores.dtype != torch.bfloat16 or keys >= SHORT or keys == SHORT // 2:
        return _mask(scores, mask, bias).softmax(-1)
    floats = _create_block(scores)
    made = torch.empty_like(floats)
    for start, block in _split(scores):
        given = floats[: len(block)].copy_(block)
        masked = _mask(given, _select(mask, start, len(block)), _select(bias, start, len(block)))
        block.copy_(torch.softmax(masked, -1, out=made[: len(block)]))
    return scores


def _mask(scores: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Add the bias to scores in place, and set them to the lowest number where masked."""
    if bias is not None:
        scores.add_(bias)
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.add_(mask)


def _compute_softmax_gradient(given: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of scores from `given`, that of their softmax `weights`, which is overwritten."""
    compute = torch.ops.aten._softmax_backward_data
    if given.dtype != torch.bfloat16 or given.shape[-1] >= SHORTEST:
        return compute.out(given, weights, -1, given.dtype, grad_input=given)
    gradients, floats = _create_block(given), _create_block(given)
    made = torch.empty_like(floats)
    for start, block in _split(given):
        size = len(block)
        parts = gradients[:size].copy_(block), floats[:size].copy_(weights[start : start + size])
        block.copy_(compute.out(*parts, -1, torch.float32, grad_input=made[:size]))
    return given


def _count_rows(scores: Tensor) -> int:
    """Return how many rows of scores are converted at once."""
    return min(len(scores), max(1, BLOCK // scores[0].numel()))


def _create_block(scores: Tensor) -> Tensor:
    """Return memory for the rows that are converted at once."""
    return torch.empty((_count_rows(scores), *scores.shape[1:]), dtype=torch.float32)


def _split(scores: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the rows that are converted at once, as a view, each after the number of the first."""
    size = _count_rows(scores)
    for start in range(0, len(scores), size):
        yield start, scores[start : start + size]


def _select(tensor: Tensor | None, start: int, size: int) -> Tensor | None:
    """Return what broadcasts to `size` rows of scores from `start` on."""
    if tensor is None or tensor.dim() < 4 or len(tensor) == 1:
        return tensor
    return tensor[start : start + size]
