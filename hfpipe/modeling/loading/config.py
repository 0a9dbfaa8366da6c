"""Completes the config of a model from scratch: special tokens and derived sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id")
STAND_INS = {"bos_token_id": "cls_token_id", "eos_token_id": "sep_token_id"}
"""In BERT-style tokenizers these tokens begin and end a text."""
SHARED_OUT = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
_CLASSIFIERS = ("classifier", "seq_classif", "qa_", "summary")
FORCED = ("forced_bos_token_id", "forced_eos_token_id")


def create_special_token_entries(
    defaults: type[PretrainedConfig], tokenizer: PreTrainedTokenizerBase
) -> dict[str, int | list[int] | None]:
    """Return the config entries of special tokens: the tokenizer's ids instead of the type's defaults.

    The start token of a decoder and the forced end token keep the role that they have in the type's defaults:
    BART starts from its end token, Marian and T5 from padding.
    """
    ids = {name: getattr(tokenizer, name) for name in TOKEN_IDS}
    for name, stand_in in STAND_INS.items():
        if ids[name] is None:
            ids[name] = ids[stand_in]
    for name in FORCED:
        if getattr(defaults, name, None) is not None:
            ids[name] = ids.get(_find_role(defaults, name))
    if defaults.is_encoder_decoder:
        start = ids.get(_find_role(defaults, "decoder_start_token_id"))
        ids["decoder_start_token_id"] = start if start is not None else ids["pad_token_id"]
    return ids


def _find_role(defaults: type[PretrainedConfig], name: str) -> str:
    """Return the special token that an entry of the defaults refers to; empty if it refers to none."""
    value = getattr(defaults, name, None)
    return next(
        (role for role in TOKEN_IDS if value is not None and getattr(defaults, role, None) == value), ""
    )


def derive_sizes(defaults: type[PretrainedConfig], entries: dict[str, Any]) -> dict[str, Any]:
    """Return `entries` with the type's own names, and the sizes derived from them.

    A decoder has the depth and width of its encoder, the head size is the hidden size divided by the heads,
    and key heads divide the heads. Some types derive these; others would keep the defaults of their largest
    model.
    """
    own = {_map_name(defaults, name): value for name, value in entries.items()}
    own = _derive_decoder_entries(defaults, own) | own
    width, heads, keys, head = (_map_name(defaults, name) for name in SHARED_OUT)
    hidden, parts = (own.get(name, getattr(defaults, name, None)) for name in (width, heads))
    if not {width, heads} & own.keys() or not isinstance(hidden, int) or not isinstance(parts, int):
        return own
    if parts % (getattr(defaults, keys, None) or parts):
        own.setdefault(keys, parts)
    if getattr(defaults, head, None) is not None and hidden % parts == 0:
        own.setdefault(head, hidden // parts)
    return own


def disable_dropout(defaults: type[PretrainedConfig], entries: dict[str, Any]) -> dict[str, float]:
    """Return 0 for each dropout entry of a type that is not in `entries`, except those of classifiers.

    A model trained from scratch on texts sees most of them only a few times, and learns more without dropout.
    """
    given = {_map_name(defaults, name) for name in entries}
    names = (name for name in dir(defaults) if "dropout" in name or "pdrop" in name)
    return {
        name: 0.0
        for name in names
        if name not in given and not name.startswith(_CLASSIFIERS) and type(getattr(defaults, name)) is float
    }


def _derive_decoder_entries(defaults: type[PretrainedConfig], own: dict[str, Any]) -> dict[str, Any]:
    """Return the encoder's entries for the decoder."""
    sides = {name: name.replace("encoder_", "decoder_", 1) for name in own if name.startswith("encoder_")}
    return {decoder: own[encoder] for encoder, decoder in sides.items() if hasattr(defaults, decoder)}


def _map_name(defaults: type[PretrainedConfig], name: str) -> str:
    return str(defaults.attribute_map.get(name, name))
