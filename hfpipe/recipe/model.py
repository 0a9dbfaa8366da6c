"""Checks a `model:` mapping against the installed config class of its type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hfpipe.errors import Problem
from hfpipe.recipe.installed import Config, list_model_types, read_model_config
from hfpipe.recipe.messages import Keys, describe_position, describe_value, format_keys, suggest
from hfpipe.recipe.settings import find_unknown_keys, make_missing_key, make_unknown_key

_FREE_HEADS = ("head_dim", "attention_head_size", "embedding_size")
"""Entries that make the size of a head independent of `hidden_size`."""


def find_model_problems(given: Mapping[str, Any], path: Keys) -> Iterator[Problem]:
    """Yield the entries that the config class of `type` does not accept."""
    kind = given.get("type")
    if "type" not in given:
        if "model_type" in given:
            yield make_unknown_key((*path, "model_type"), ["type"])
        else:
            yield make_missing_key("type", given, path, "it names the architecture, as modernbert")
        return
    known = read_model_config(kind) if isinstance(kind, str) else None
    if known is None:
        given_as = repr(kind) if isinstance(kind, str) else describe_value(kind)
        yield Problem(
            f"there is no model type {given_as}{suggest(str(kind), list_model_types())}", (*path, "type")
        )
        return
    for key, value in given.items():
        if key != "type":
            yield from _check_entry(str(key), value, known, (*path, key))
    if known.whole:
        there = ["type", *known.fields, *known.aliases]
        yield from find_unknown_keys((key for key in given if str(key) not in there), path, there)
    yield from _check_heads(given, known, path)


def _check_entry(key: str, value: Any, known: Config, here: Keys) -> Iterator[Problem]:
    field = known.fields.get(known.aliases.get(key, key))
    if field is not None:
        refusal = field.form.explain_refusal(value, loose=False)
        if refusal is not None:
            yield Problem(f"{format_keys(here)}: {refusal}", here)


def _check_heads(given: Mapping[str, Any], known: Config, path: Keys) -> Iterator[Problem]:
    """Check that heads divide the hidden size; Transformers checks this only when it builds the model."""
    if any(name in known.fields or name in known.aliases or name in given for name in _FREE_HEADS):
        return
    size, heads = known.get_value(given, "hidden_size"), known.get_value(given, "num_attention_heads")
    if isinstance(size, int) and isinstance(heads, int) and (heads < 1 or size % heads):
        message = (
            f"hidden_size {size} is not a multiple of num_attention_heads {heads}{describe_position(path)}"
        )
        own = next(
            (
                k
                for k in ("num_attention_heads", "hidden_size")
                if known.aliases.get(k, k) in given or k in given
            ),
            "",
        )
        yield Problem(f"{message}; change one", (*path, own) if own in given else path)
