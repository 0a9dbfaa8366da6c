"""Encodes texts; control tokens that occur in a text are encoded as plain text, unlike those of the format.

Otherwise `<|im_end|>` in a user's text would end a turn, and a target such as `was <s>5</s>` could never be
generated, since decoding drops control tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hfpipe.errors import StageError
from hfpipe.tokenization.prefetching import map_ahead
from hfpipe.tokenization.ragged import Ragged
from hfpipe.tokenization.spelling import Spelling, find_known_tokens, get_spelling
from hfpipe.tokenization.text import Format, Text, get_parts

CHARACTERS_AT_ONCE = 250_000
"""Maximum number of characters encoded at once; the tokenizer needs about a hundred bytes per token."""
PARTS_AT_ONCE = 2
"""Number of parts encoded at once, so that no thread of the tokenizer waits for the last texts of a part."""
_CODE = ("__call__", "_encode_plus", "_convert_encoding", "set_truncation_and_padding")
"""Methods that a tokenizer class may override to change the input or output of its backend."""


class TokenIds(NamedTuple):
    """Encoding of texts or pairs of texts."""

    input_ids: Ragged
    token_type_ids: Ragged | None
    """0 and 1 for the two texts of a pair, if requested."""


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None = None,
    *,
    target: bool = False,
    **options: Any,
) -> BatchEncoding:
    """Return `tokenizer(texts, pairs, **options)`, but encode control tokens in texts as plain text.

    In a `Format` part they are encoded as control tokens. `target` encodes in the target language.
    Raises StageError for a text that a tokenizer without a fast backend cannot encode in this way.
    """
    sides = [side for side in (texts, pairs) if side is not None]
    found = get_spelling(tokenizer, _join_sides(sides))
    if found is None:
        parts = [[get_parts(text) for text in side] for side in sides]
        return _encode_slowly(tokenizer, parts, target=target, **options)
    written = [found.write(side) for side in sides]
    _set_language(tokenizer, found, target=target)
    encoded: BatchEncoding = found.tokenizer(*written, **options)
    return encoded


def encode_ids(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None = None,
    *,
    special_tokens: bool = False,
    token_types: bool = False,
) -> TokenIds:
    """Return the ids of texts or pairs, without truncation, as arrays; the same ids as `encode_texts`.

    Use this function when only ids are needed. If the class of a tokenizer overrides no encoding method, only
    its backend is called, without offsets.
    """
    parts = _encode_by_backend(tokenizer, texts, pairs, special_tokens)
    if parts is None:
        encoded = _encode_by_class(tokenizer, texts, pairs, special_tokens, token_types)
        types = Ragged.from_rows(encoded["token_type_ids"]) if token_types else None
        return TokenIds(Ragged.from_rows(encoded["input_ids"]), types)
    lengths: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    ids: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    types_of_parts: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    for part in parts:
        lengths.append(np.fromiter(map(len, part), np.int64, len(part)))
        total = int(lengths[-1].sum())
        ids.append(np.fromiter(chain.from_iterable(each.ids for each in part), np.int32, total))
        if token_types:
            types_of_parts.append(
                np.fromiter(chain.from_iterable(each.type_ids for each in part), np.int32, total)
            )
    found = Ragged.from_lengths(np.concatenate(ids), np.concatenate(lengths))
    return TokenIds(found, Ragged(np.concatenate(types_of_parts), found.offsets) if token_types else None)


def encode_plain(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text]) -> list[list[int]]:
    """Return the ids of each text as a list, without special tokens."""
    parts = _encode_by_backend(tokenizer, texts, None, special_tokens=False)
    if parts is None:
        return _encode_by_class(tokenizer, texts, None, special_tokens=False, token_types=False)["input_ids"]
    return [each.ids for part in parts for each in part]


def _join_sides(sides: Sequence[Sequence[Text]]) -> Iterator[str]:
    return (text if isinstance(text, str) else "".join(text) for side in sides for text in side)


def _encode_by_class(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None,
    special_tokens: bool,
    token_types: bool,
) -> BatchEncoding:
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": token_types}
    return encode_texts(tokenizer, texts, pairs, add_special_tokens=special_tokens, verbose=False, **options)


def _encode_by_backend(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None,
    special_tokens: bool,
) -> Iterator[Sequence[Any]] | None:
    """Encode with the library Tokenizers, and the next texts meanwhile.

    None for a tokenizer that overrides encoding methods or has no such backend.
    """
    if any(getattr(type(tokenizer), name) is not getattr(PreTrainedTokenizerFast, name) for name in _CODE):
        return None
    sides = [side for side in (texts, pairs) if side is not None]
    found = get_spelling(tokenizer, _join_sides(sides))
    if found is None:
        return None
    written = [found.write(side) for side in sides]
    _set_language(tokenizer, found, target=False)
    backend = _get_backend(found.tokenizer)
    if backend.truncation is not None:
        backend.no_truncation()
    inputs: Sequence[Any] = written[0] if pairs is None else list(zip(*written, strict=True))

    def encode(part: slice) -> Sequence[Any]:
        return backend.encode_batch_fast(inputs[part], add_special_tokens=special_tokens)

    parts = _cut_into_parts(written)
    return map_ahead(encode, parts, threads=PARTS_AT_ONCE) if len(parts) > 1 else map(encode, parts)


def _cut_into_parts(sides: list[list[str]]) -> list[slice]:
    """Return slices of the texts with a limited number of characters each, and at least one text."""
    if sum(sum(map(len, side)) for side in sides) <= CHARACTERS_AT_ONCE:
        return [slice(0, len(sides[0]))]
    sizes = np.sum([np.fromiter(map(len, side), np.int64, len(side)) for side in sides], axis=0)
    part = np.cumsum(sizes) // CHARACTERS_AT_ONCE
    starts = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(sizes)]
    return [slice(start, end) for start, end in pairwise(starts)]


def _set_language(tokenizer: PreTrainedTokenizerBase, found: Spelling, *, target: bool) -> None:
    """Copy the special tokens that the original adds to a text; they may depend on the language."""
    with _switch_language(tokenizer, target=target):
        found.tokenizer._tokenizer.post_processor = _get_backend(tokenizer).post_processor


@contextmanager
def _switch_language(tokenizer: Any, *, target: bool) -> Iterator[None]:
    """Switch a multilingual tokenizer to its source or target language, and finally back to the source."""
    if not hasattr(tokenizer, "_switch_to_input_mode"):
        yield
        return
    if target:
        tokenizer._switch_to_target_mode()
    else:
        tokenizer._switch_to_input_mode()
    try:
        yield
    finally:
        tokenizer._switch_to_input_mode()


def _get_backend(tokenizer: Any) -> Any:
    return tokenizer._tokenizer


def _encode_slowly(
    tokenizer: PreTrainedTokenizerBase, sides: list[list[Sequence[str]]], *, target: bool, **options: Any
) -> BatchEncoding:
    """Encode with a tokenizer written in Python, which splits either all control tokens or none."""
    every = (part for side in sides for parts in side for part in parts)
    control = find_known_tokens(tokenizer).any_control
    found = [part for part in every if control.search(part)]
    typed = [part for part in found if not isinstance(part, Format)]
    if typed:
        options["split_special_tokens"] = True
        if len(typed) < len(found) or any(_reads_control(tokenizer, part) for part in typed):
            raise StageError(
                f"{typed[0]!r:.60} contains a control token, which this tokenizer cannot encode as "
                "text; use a fast tokenizer, or drop such rows"
            )
    joined = [["".join(parts) for parts in side] for side in sides]
    names = ("text_target", "text_pair_target") if target else ("text", "text_pair")
    encoded: BatchEncoding = tokenizer(**dict(zip(names, joined, strict=False)), **options)
    return encoded


def _reads_control(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Return whether a tokenizer encodes a control token in a text even with `split_special_tokens`."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return not set(tokenizer.all_special_ids).isdisjoint({*ids} - {tokenizer.unk_token_id})
