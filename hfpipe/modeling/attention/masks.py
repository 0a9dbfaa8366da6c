"""Attention without masks, which allows fast kernels for batches without padding.

When torch.compile traces a model, Transformers builds a mask of shape (rows, 1, length, length) even for a
batch without padding, because tensor values are not available while tracing. With a mask,
`scaled_dot_product_attention` cannot use its flash kernel. The implementation registered here creates masks
only for sliding windows, on a GPU as block masks for FlexAttention, which skips blocks outside of a window;
all other layers receive an argument that sets whether they are causal.

Some architectures use masks for other purposes (a bidirectional prefix, packed documents). They are detected
by their masks, not by name: `runs_without_masks` examines the masks of one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import and_masks, padding_mask_function, sdpa_mask

from hfpipe.modeling.attention.cpu import are_compiled_products_faster, attend_by_products

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "sdpa_without_mask"
"""Name of the implementation in Transformers' tables of attention and mask functions."""
PROBE = "sdpa_probe"
"""Name of the implementation that examines masks."""


@contextmanager
def omit_masks(model: PreTrainedModel) -> Iterator[None]:
    """Run a model without masks; inputs must have no padding, or padding on the right of a causal model."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _create_window_mask)
    with use_attention(model, NAME):
        yield


def runs_without_masks(model: PreTrainedModel, input_ids: torch.Tensor) -> bool:
    """Return whether a model creates no masks except those of sliding windows.

    `input_ids`, int64 (rows, length), are a batch without padding. A model whose attention is not
    `scaled_dot_product_attention`, or not in Transformers' tables, keeps its masks.
    """
    if model.config._attn_implementation != "sdpa":
        return False
    needless: list[bool] = []

    def probe(*, local_size: int | None = None, **options: Any) -> torch.Tensor | None:
        mask = sdpa_mask(local_size=local_size, **options)
        needless.append(mask is None or local_size is not None)
        return mask

    AttentionInterface.register(PROBE, sdpa_attention_forward)
    AttentionMaskInterface.register(PROBE, probe)
    inputs = {"input_ids": input_ids} | ({"use_cache": False} if model.can_generate() else {})
    try:
        with torch.no_grad(), use_attention(model, PROBE):
            model(**inputs)
    except (KeyError, TypeError, ValueError):  # for example, an encoder-decoder needs more inputs
        return False
    return bool(needless) and all(needless)


@contextmanager
def use_attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Run a model with another attention implementation, given by its name in Transformers' tables."""
    config, usual = model.config, model.config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = usual


def _create_window_mask(*, q_length: int, local_size: int | None = None, **options: Any) -> Any:
    """Return the mask of a layer with a sliding window, None for any other layer."""
    if local_size is None or q_length <= local_size:
        return None
    blocks = torch.device(options["device"]).type == "cuda" and not _get_dropout(options["config"])
    make = block_mask if blocks else sdpa_mask
    return make(q_length=q_length, local_size=local_size, **options)


def block_mask(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Any,
    device: torch.device | str,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> BlockMask:
    """Return a block mask for FlexAttention; the arguments are those of Transformers' mask functions.

    Transformers' `flex_attention_mask` uses a deprecated compilation that breaks the graph of torch.compile
    at every mask. `attention_mask`, bool (rows, length), is false at padding.
    """
    if attention_mask is not None:
        mask_function = and_masks(mask_function, padding_mask_function(attention_mask))
    return create_block_mask(mask_function, batch_size, None, q_length, kv_length, device=str(device))


def _get_dropout(config: Any) -> float:
    """Return the attention dropout in training, which FlexAttention does not support."""
    return float(getattr(config, "attention_dropout", 0.0) or 0.0)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute attention by the fastest method for mask and shape; shapes as in `sdpa_attention_forward`."""
    if attention_mask is not None and not isinstance(attention_mask, torch.Tensor):
        return _call_attention(flex_attention_forward, module, query, key, value, attention_mask, options)
    causal = options.get("is_causal")
    causal = attention_mask is None and bool(getattr(module, "is_causal", True) if causal is None else causal)
    plain = options.get("position_bias") is None and options.get("softcap") is None
    plain = plain and (attention_mask is None or attention_mask.dtype == torch.bool)
    if not plain or not are_compiled_products_faster(query, key, causal=causal):
        return _call_attention(sdpa_attention_forward, module, query, key, value, attention_mask, options)
    chosen = {name: options[name] for name in ("scaling", "dropout") if name in options}
    return attend_by_products(module, query, key, value, attention_mask, causal=causal, **chosen), None


def _call_attention(forward: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    *tensors, options = arguments
    attended: tuple[torch.Tensor, torch.Tensor | None] = forward(*tensors, **options)
    return attended
