"""Attention within examples of varying length on a GPU, by the FlashAttention kernel in torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_HEAD = 256
"""Largest head size of the kernel."""
HALVES = (torch.float16, torch.bfloat16)


def find_kernel() -> Callable[..., Any] | None:
    """Return torch's kernel, None in versions without it or without sliding windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    return varlen_attn if {"window_size", "enable_gqa"} <= known.keys() else None


def supports_varlen(query: Tensor, key: Tensor, value: Tensor, options: Mapping[str, Any]) -> bool:
    """Return whether the kernel computes an attention: on a GPU, in half precision, without dropout.

    Shapes are (1, heads, tokens, head size), `options` those of an attention function of Transformers.
    """
    plain = not any(options.get(name) for name in ("dropout", "softcap"))
    plain = plain and all(options.get(name) is None for name in ("position_bias", "s_aux"))
    fits = query.shape[-1] == value.shape[-1] <= LARGEST_HEAD
    same = query.dtype == key.dtype == value.dtype
    return plain and fits and same and query.dtype in HALVES and query.device.type == "cuda"


def attend_varlen(
    kernel: Callable[..., Any],
    module: nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor],
    bounds: Tensor,
    longest: int,
    window: int | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Return the attention output, shape (1, tokens, heads, head size).

    `tensors` are query, key and value; `bounds`, int32, are the start of each example, and the end. `window`
    is the size of a sliding window as in Transformers' masks: without the query itself, unless causal.
    """
    query, key, value = (each[0].transpose(0, 1).contiguous() for each in tensors)
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    left = -1 if window is None else window - 1 if causal else window
    around = (left, 0 if causal else left)
    grouped = query.shape[1] != key.shape[1]
    scale = options.get("scaling")
    found: Tensor = kernel(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=around,
        enable_gqa=grouped,
    )
    return found.unsqueeze(0)
