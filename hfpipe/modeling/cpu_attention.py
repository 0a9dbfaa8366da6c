"""Attention of a training on a CPU by two matrix products and a softmax, where torch's kernel is slow.

`scaled_dot_product_attention` takes a flash kernel there that in bfloat16 needs two to seven times as long as
the products, forward and backward, over up to 512 positions. With dropout it takes a slower path still, in
any dtype. (Measured on an EPYC with AVX512-BF16, 32 rows of 12 heads.) In a causal layer each block of
queries is multiplied with the keys up to its end only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hfpipe.modeling.random_bits import drop_out, fast_dropout

LONGEST = 512
"""Positions up to which the products are faster where nothing is dropped."""
BLOCK = 128
"""Queries that are multiplied with the same keys in a causal layer."""
USUAL = "sdpa"
"""The implementation that is replaced."""


@contextmanager
def eager_kernels(model: nn.Module) -> Iterator[None]:
    """Train a model that is not compiled on a CPU with attention and dropout that are fast there."""
    with eager_attention(), fast_dropout(model):
        yield


@contextmanager
def eager_attention() -> Iterator[None]:
    """Let every model whose attention is `sdpa` use `_attend` for a while.

    The function is replaced and not the name, because masks and some models depend on the name.
    """
    usual = AttentionInterface()[USUAL]
    AttentionInterface.register(USUAL, _attend)
    try:
        yield
    finally:
        AttentionInterface.register(USUAL, usual)


def products_pay(query: Tensor, key: Tensor, longest: int = LONGEST) -> bool:
    """Tell whether products without dropout are faster than the kernel, over up to `longest` positions.

    The shapes are (rows, heads, length, size of a head). A processor with AMX was not measured and keeps the
    kernel.
    """
    slow = query.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
    return query.device.type == "cpu" and slow and key.shape[2] <= longest


def attend_by_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool,
    scaling: float | None = None,
    bias: Tensor | None = None,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return what is attended to, shape (rows, length, heads, size of a head); the softmax is in float32.

    `query` has shape (rows, heads, length, size of a head); `key` and `value` may have fewer heads. `mask`
    is true where a query sees a key, or is added to the scores; it has a shape that broadcasts to (rows,
    heads, length, keys), and a layer with a mask is not `causal`. `bias`, of the same shape, is added as
    well. `drop` drops some of the weights.
    """
    length, scale = query.shape[2], query.shape[3] ** -0.5 if scaling is None else scaling
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    if scale != 1:
        query = query * scale
    positions = torch.arange(max(length, key.shape[2]), device=query.device) if causal else None
    blocks = []
    for start in range(0, length, BLOCK if causal else length):
        rows = slice(start, start + BLOCK) if positions is not None else slice(None)
        seen = slice(rows.stop)
        scores = query[:, :, rows] @ key[:, :, seen].transpose(-1, -2)
        if bias is not None:
            scores = scores + bias[..., rows, seen].to(scores.dtype)
        if positions is not None:
            mask = positions[rows][: scores.shape[2], None] >= positions[None, : scores.shape[3]]
        weights = _masked(scores, mask).softmax(-1, dtype=torch.float32).to(query.dtype)
        blocks.append((weights if drop is None else drop(weights)) @ value[:, :, seen])
    attended = torch.cat(blocks, 2) if len(blocks) > 1 else blocks[0]
    return attended.transpose(1, 2).contiguous()


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores with the lowest number where masked, which a row that sees nothing survives."""
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores + mask.to(scores.dtype)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend by products in training where they pay; shapes as in `sdpa_attention_forward`.

    With dropout the flash kernel is not used anyway. It does not matter whether gradients are on: a
    checkpointed layer is computed once without and once with.
    """
    paying = products_pay(query, key) or (dropout > 0 and query.device.type == "cpu")
    if options.get("softcap") is not None or not (module.training and paying):
        told = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal} | options
        usual: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, position_bias=position_bias, **told
        )
        return usual
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    causal = attention_mask is None and causal and query.shape[2] > 1
    drop = partial(drop_out, probability=dropout) if dropout else None
    attended = attend_by_products(
        query, key, value, attention_mask, causal=causal, scaling=scaling, bias=position_bias, drop=drop
    )
    return attended, None
