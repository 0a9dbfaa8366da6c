"""Attention that needs no mask: the fast kernels for batches in which nothing is padded.

Transformers builds a mask of shape (rows, 1, length, length) whenever torch.compile traces a model, also for
a batch without padding, because it may not look at the values of a tensor there. With a mask,
`scaled_dot_product_attention` cannot take its flash kernel. The attention registered here asks for no mask:
what a mask would say beyond padding, which is causality and a sliding window, reaches it as arguments.

Some architectures put more into their masks (chunks, a bidirectional prefix). They are recognized by what
their masks hold, not by name: `runs_without_masks` looks at the masks of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_without_mask"
"""Name of the implementation in Transformers' table of attention functions."""
PROBE = "sdpa_probe"
"""Name of the implementation that looks at masks."""


@contextmanager
def attention_without_masks(model: PreTrainedModel) -> Iterator[None]:
    """Run a model without masks; its inputs have no padding, or it is causal and padding is on the right."""
    AttentionInterface.register(NAME, _attend)
    with _implementation(model, NAME):
        yield


def runs_without_masks(model: PreTrainedModel, input_ids: torch.Tensor) -> bool:
    """Tell whether the masks of a model hold nothing but causality and a sliding window.

    `input_ids`, int64 (rows, length), are of one batch without padding. A model whose attention is not
    `scaled_dot_product_attention`, or not of Transformers' table, keeps its masks.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    same: list[bool] = []

    def probe(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        implied = _mask(module, query, sliding_window, options)
        same.append(
            attention_mask is implied
            if attention_mask is None or implied is None
            else bool((attention_mask == implied).all())
        )
        return _attend(module, query, key, value, attention_mask, sliding_window, **options)

    AttentionInterface.register(PROBE, probe)
    AttentionMaskInterface.register(PROBE, sdpa_mask)
    inputs = {"input_ids": input_ids} | ({"use_cache": False} if model.can_generate() else {})
    try:
        with torch.no_grad(), _implementation(model, PROBE):
            model(**inputs)
    except (KeyError, TypeError, ValueError):  # as of an encoder-decoder, which needs more than these inputs
        return False
    return bool(same) and all(same)


@contextmanager
def _implementation(model: PreTrainedModel, name: str) -> Iterator[None]:
    config, usual = model.config, model.config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to all tokens, to those before, or to a window; shapes as in `sdpa_attention_forward`."""
    if attention_mask is None:
        attention_mask = _mask(module, query, sliding_window, options)
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, **options
    )
    return attended


def _mask(
    module: torch.nn.Module, query: torch.Tensor, window: int | None, options: dict[str, Any]
) -> torch.Tensor | None:
    """Return which tokens see which others, bool (1, 1, length, length); None where no window restricts it.

    A window holds the tokens that are less than `window` away.
    """
    length = query.shape[2]
    if window is None or length <= window:
        return None
    places = torch.arange(length, device=query.device)
    distance = places[:, None] - places[None, :]
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    near = (distance >= 0) & (distance < window) if causal else distance.abs() < window
    return near[None, None]
