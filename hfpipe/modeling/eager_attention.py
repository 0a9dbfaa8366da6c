"""Attention of a training on a CPU that is not compiled: matrix products where torch's kernel is slow.

`scaled_dot_product_attention` takes a flash kernel there that in bfloat16 needs two to seven times as long as
the products, forward and backward, over up to 512 positions. With dropout it takes a slower path still, in
any dtype. (Measured on an EPYC with AVX512-BF16, 32 rows of 12 heads.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hfpipe.modeling.random_bits import drop_out, fast_dropout

LONGEST = 512
"""Positions up to which the products are faster where nothing is dropped."""
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


def products_pay(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Tell whether products are faster than the kernel; shapes (rows, heads, length, size of a head).

    With dropout the kernel is not used anyway. A processor with AMX was not measured and keeps it.
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
    """Attend by products in training where they pay; shapes as in `sdpa_attention_forward`.

    It does not matter whether gradients are on: a checkpointed layer is computed once without and once with.
    """
    paying = module.training and products_pay(query, key, dropout)
    if options.get("softcap") is not None or not paying:
        told = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal} | options
        usual: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, position_bias=position_bias, **told
        )
        return usual
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is None and causal and query.shape[2] > 1:
        ones = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = ones.tril()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale if scale != 1 else query) @ key.transpose(-1, -2)
    weights = _masked(scores, attention_mask, position_bias).softmax(-1)
    if dropout:
        weights = drop_out(weights, dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


def _masked(scores: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return scores (rows, heads, length, length) with a bias added, and the lowest number where masked."""
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores + mask.to(scores.dtype)
