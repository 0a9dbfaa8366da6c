"""Attention for training on a CPU by two matrix products and a softmax, where torch's kernel is slow.

On a CPU `scaled_dot_product_attention` uses a flash kernel that in bfloat16 is two to seven times slower than
the products, forward and backward, for up to 512 positions. With dropout it uses an even slower path, in any
dtype. (Measured on an EPYC with AVX512-BF16, 32 rows of 12 heads.)

There are two implementations: with torch.compile, a softmax in float32 is fused, and skipping blocks of keys
is faster; in eager mode, attention with a softmax in float32 took two to three times as long as in bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hfpipe.modeling.activations import use_fused_gelu
from hfpipe.modeling.attention.products import attend_by_eager_products
from hfpipe.modeling.norms import use_lean_layers
from hfpipe.modeling.random_bits import use_fast_dropout

LONGEST = 512
"""Maximum number of positions for which the products are faster without dropout; half as many for a compiled
layer that is not causal."""
BLOCK = 128
"""Number of queries per block in a compiled causal layer; the queries of a block share their keys."""
REPLACED = "sdpa"
"""Name of the implementation that is replaced."""


@contextmanager
def use_eager_kernels(model: nn.Module) -> Iterator[None]:
    """Use fast attention, dropout and GELU to train an uncompiled model on a CPU."""
    with use_eager_attention(), use_fast_dropout(model), use_fused_gelu(model), use_lean_layers(model):
        yield


def use_eager_attention() -> AbstractContextManager[None]:
    """Temporarily make every model with `sdpa` attention use `_attend`."""
    return replace_attention(REPLACED, _attend)


@contextmanager
def replace_attention(name: str, attend: Callable[..., Any]) -> Iterator[None]:
    """Temporarily replace the function of an attention implementation.

    Its name is kept, because masks and some models depend on it.
    """
    usual = AttentionInterface()[name]
    AttentionInterface.register(name, attend)
    try:
        yield
    finally:
        AttentionInterface.register(name, usual)


def are_products_faster(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Return whether products are faster than the kernel; shapes (rows, heads, length, head size).

    With dropout the kernel is not used anyway. Processors with AMX were not measured and keep the kernel.
    """
    if query.device.type != "cpu":
        return False
    slow = query.dtype == torch.bfloat16 and not torch.cpu._is_amx_tile_supported()
    return dropout > 0 or (slow and key.shape[2] <= LONGEST)


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
    """Compute attention by products in training if they are faster; shapes as in `sdpa_attention_forward`.

    Does not depend on whether gradients are enabled: a checkpointed layer is computed once without and once
    with.
    """
    paying = module.training and are_products_faster(query, key, dropout)
    if options.get("softcap") is not None or not paying:
        settings = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal} | options
        usual: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, position_bias=position_bias, **settings
        )
        return usual
    key, value = _repeat_heads(key, value, query.shape[1])
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is None and causal and query.shape[2] > 1:
        ones = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = ones.tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attended = attend_by_eager_products(
        query, key, value, attention_mask, position_bias, scale=scale, dropout=dropout
    )
    return attended, None


def _repeat_heads(key: Tensor, value: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Repeat keys and values to the number of heads of the queries."""
    groups = heads // key.shape[1]
    if groups == 1:
        return key, value
    return key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


def are_compiled_products_faster(query: Tensor, key: Tensor, *, causal: bool) -> bool:
    """Return whether compiled products are faster than the kernel; shapes as for `are_products_faster`."""
    longest = LONGEST if causal else LONGEST // 2
    short = query.shape[2] == key.shape[2] <= longest
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and short


def attend_by_products(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    causal: bool,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Return the attention output, shape (rows, length, heads, head size); the softmax is in float32.

    `query` has shape (rows, heads, length, head size); `key` and `value` may have fewer heads. `mask`, bool,
    is true where a query attends to a key, and broadcasts to (rows, heads, length, length); a layer with a
    mask is not `causal`. Designed for torch.compile.
    """
    length, scale = query.shape[2], query.shape[3] ** -0.5 if scaling is None else scaling
    key, value = _repeat_heads(key, value, query.shape[1])
    if causal:
        positions = torch.arange(length, device=query.device)
        mask = (positions[:, None] >= positions[None])[None, None]
    size = BLOCK if causal else length
    blocks = []
    for start in range(0, length, size):
        end = min(start + size, length)
        seen = end if causal else length
        scores = (query[:, :, start:end] @ key[:, :, :seen].transpose(-1, -2)).float() * scale
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, start:end, :seen], -math.inf)
        weights: Any = scores.softmax(-1).to(query.dtype)
        if dropout:
            weights = F.dropout(weights, dropout, training=module.training)
        blocks.append(weights @ value[:, :, :seen])
    return torch.cat(blocks, 2).transpose(1, 2).contiguous()
