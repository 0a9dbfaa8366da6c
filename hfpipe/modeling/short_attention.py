"""Attention over short sequences on a CPU: two matrix products and a softmax, for torch.compile to fuse.

The flash kernel of a CPU is made for long sequences: in bfloat16, forward and backward together take two to
three times as long as the products over 128 or 256 positions do (measured on an EPYC with AVX512-BF16). In a
causal layer each block of queries is multiplied with the keys up to its end only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

BLOCK = 128
"""Queries that are multiplied with the same keys in a causal layer."""
LONGEST = 512
"""Positions up to which a causal layer is faster this way; half as many for one that is not causal."""


def products_pay(query: torch.Tensor, key: torch.Tensor, *, causal: bool) -> bool:
    """Tell whether the products are faster than the kernel; shapes (rows, heads, length, size of a head)."""
    longest = LONGEST if causal else LONGEST // 2
    short = query.shape[2] == key.shape[2] <= longest
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and short


def attend_by_products(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Return what is attended to, shape (rows, length, heads, size of a head), softmax in float32.

    `query` has shape (rows, heads, length, size of a head); `key` and `value` may have fewer heads. `mask`,
    bool, is true where a query sees a key and has a shape that broadcasts to (rows, heads, length, length);
    a layer with a mask is not `causal`.
    """
    length, scale = query.shape[2], query.shape[3] ** -0.5 if scaling is None else scaling
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
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
