"""Shrinks the config of any model to a few small layers, so that it trains in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
import transformers
from transformers import PretrainedConfig

from hfpipe.errors import StageError

LAYERS, HIDDEN, HEADS, INNER = 2, 64, 4, 128
_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads")
_INNER = (
    "intermediate_size",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "ffn_dim",
    "d_ff",
    "n_inner",
    "hidden_dim",
)
_HIDDEN = ("hidden_size", "embedding_size", "word_embed_proj_dim")
_HEAD = ("head_dim", "d_kv", "attention_head_size")


def shrink_config(config: PretrainedConfig, auto_class: str) -> PretrainedConfig:
    """Return a copy with at most two layers of width 64, if a model of this type can be built like that.

    Smaller values are kept. Raises StageError when no model can be built.
    """
    for shrunk in (_reduce_width(_reduce_layers(config)), _reduce_layers(config), deepcopy(config)):
        if _can_be_built(shrunk, auto_class):
            return shrunk
    raise StageError(f"model: {config.model_type} cannot be built for this task")


def remove_dropout(config: PretrainedConfig) -> PretrainedConfig:
    """Return a copy without dropout, whose random numbers depend on how a batch is split."""
    found = deepcopy(config)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(found, name, 0.0)
    return found


def _reduce_layers(config: PretrainedConfig) -> PretrainedConfig:
    found = deepcopy(config)
    depths = set()
    for name in _LAYERS:
        depth = getattr(found, name, None)
        if isinstance(depth, int) and depth > LAYERS:
            depths.add(depth)
            setattr(found, name, LAYERS)
    for name, value in vars(found).items():  # such as layer_types, with one entry per layer
        if isinstance(value, list) and len(value) in depths:
            setattr(found, name, value[:LAYERS])
    return found


def _reduce_width(config: PretrainedConfig) -> PretrainedConfig:
    found = deepcopy(config)
    if getattr(found, "hidden_size", HIDDEN) <= HIDDEN:
        return found
    for name, value in _list_sizes():
        if isinstance(getattr(found, name, None), int) and getattr(found, name) > value:
            setattr(found, name, value)
    shared = getattr(found, "num_key_value_heads", None)
    if isinstance(shared, int):
        found.num_key_value_heads = next(count for count in (4, 2, 1) if count <= shared)
    return found


def _list_sizes() -> Iterator[tuple[str, int]]:
    yield from ((name, HIDDEN) for name in _HIDDEN)
    yield from ((name, HEADS) for name in _HEADS)
    yield from ((name, INNER) for name in _INNER)
    yield from ((name, HIDDEN // HEADS) for name in _HEAD)


def _can_be_built(config: PretrainedConfig, auto_class: str) -> bool:
    try:
        with torch.device("meta"):
            getattr(transformers, auto_class).from_config(deepcopy(config))
    except Exception:  # each model type has its own rules and errors
        return False
    return True
