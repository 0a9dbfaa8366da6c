"""Encodes texts so that a control token typed in one is text: only the format writes control tokens.

A user's `<|im_end|>` would otherwise end a turn, and a target `was <s>5</s>` could never be written, since
decoding drops control tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hfpipe.errors import StageError
from hfpipe.tokenization.prefetching import prefetch
from hfpipe.tokenization.ragged import Ragged
from hfpipe.tokenization.spelling import Spelling, known_tokens, spelling
from hfpipe.tokenization.text import Format, Text, text_parts

CHARACTERS_AT_ONCE = 250_000
"""Characters of texts that are encoded at once: the tokenizer holds some hundred bytes for each token."""
_CODE = ("__call__", "_encode_plus", "_convert_encoding", "set_truncation_and_padding")
"""Methods by which a tokenizer class can change what its backend is given or gives back."""


class TokenIds(NamedTuple):
    """What texts, or pairs of texts, are encoded to."""

    input_ids: Ragged
    token_type_ids: Ragged | None
    """0 and 1 for the two texts of a pair, where they were asked for."""


def encode_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None = None,
    *,
    target: bool = False,
    **options: Any,
) -> BatchEncoding:
    """Return what `tokenizer(texts, pairs, **options)` returns, with control tokens in texts read as text.

    Those in a `Format` part are encoded as control tokens. `target` encodes in the language of targets.
    Raises StageError for a text that a tokenizer without a fast backend cannot encode so.
    """
    sides = [side for side in (texts, pairs) if side is not None]
    found = spelling(tokenizer, _joined(sides))
    if found is None:
        parts = [[text_parts(text) for text in side] for side in sides]
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
    """Return the whole texts, or pairs, as arrays of ids: those that `encode_texts` returns as lists.

    This is the one call for text of which nothing but ids is needed. A tokenizer whose class has no code of
    its own for encoding is run by its backend alone, without offsets.
    """
    parts = _encoded_by_backend(tokenizer, texts, pairs, special_tokens)
    if parts is None:
        encoded = _encoded_by_class(tokenizer, texts, pairs, special_tokens, token_types)
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
    """Return the ids of each text as a list, without any special tokens."""
    parts = _encoded_by_backend(tokenizer, texts, None, special_tokens=False)
    if parts is None:
        return _encoded_by_class(tokenizer, texts, None, special_tokens=False, token_types=False)["input_ids"]
    return [each.ids for part in parts for each in part]


def _joined(sides: Sequence[Sequence[Text]]) -> Iterator[str]:
    return (text if isinstance(text, str) else "".join(text) for side in sides for text in side)


def _encoded_by_class(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None,
    special_tokens: bool,
    token_types: bool,
) -> BatchEncoding:
    options: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": token_types}
    return encode_texts(tokenizer, texts, pairs, add_special_tokens=special_tokens, verbose=False, **options)


def _encoded_by_backend(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    pairs: Sequence[Text] | None,
    special_tokens: bool,
) -> Iterator[Sequence[Any]] | None:
    """Encode by the library Tokenizers, some texts ahead of those that are used.

    None for a tokenizer that has code of its own, or no such backend.
    """
    if any(getattr(type(tokenizer), name) is not getattr(PreTrainedTokenizerFast, name) for name in _CODE):
        return None
    sides = [side for side in (texts, pairs) if side is not None]
    found = spelling(tokenizer, _joined(sides))
    if found is None:
        return None
    written = [found.write(side) for side in sides]
    _set_language(tokenizer, found, target=False)
    backend = _backend(found.tokenizer)
    if backend.truncation is not None:
        backend.no_truncation()
    inputs: Sequence[Any] = written[0] if pairs is None else list(zip(*written, strict=True))

    def encode(part: slice) -> Sequence[Any]:
        return backend.encode_batch_fast(inputs[part], add_special_tokens=special_tokens)

    parts = _parts_to_encode(written)
    return prefetch(map(encode, parts)) if len(parts) > 1 else map(encode, parts)


def _parts_to_encode(sides: list[list[str]]) -> list[slice]:
    """Return the texts in parts of some characters each, at least one text a part."""
    if sum(sum(map(len, side)) for side in sides) <= CHARACTERS_AT_ONCE:
        return [slice(0, len(sides[0]))]
    sizes = np.sum([np.fromiter(map(len, side), np.int64, len(side)) for side in sides], axis=0)
    part = np.cumsum(sizes) // CHARACTERS_AT_ONCE
    starts = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(sizes)]
    return [slice(start, end) for start, end in pairwise(starts)]


def _set_language(tokenizer: PreTrainedTokenizerBase, found: Spelling, *, target: bool) -> None:
    """Give a copy the special tokens that the original puts around a text; those may name a language."""
    with _language_of(tokenizer, target=target):
        found.tokenizer._tokenizer.post_processor = _backend(tokenizer).post_processor


@contextmanager
def _language_of(tokenizer: Any, *, target: bool) -> Iterator[None]:
    """Switch a tokenizer of several languages to that of its sources or targets, and then back to sources."""
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


def _backend(tokenizer: Any) -> Any:
    return tokenizer._tokenizer


def _encode_slowly(
    tokenizer: PreTrainedTokenizerBase, sides: list[list[Sequence[str]]], *, target: bool, **options: Any
) -> BatchEncoding:
    """Encode by a tokenizer written in Python, which splits either all control tokens or none."""
    every = (part for side in sides for parts in side for part in parts)
    control = known_tokens(tokenizer).any_control
    found = [part for part in every if control.search(part)]
    typed = [part for part in found if not isinstance(part, Format)]
    if typed:
        options["split_special_tokens"] = True
        if len(typed) < len(found) or any(_reads_control(tokenizer, part) for part in typed):
            raise StageError(
                f"{typed[0]!r:.60} holds a control token, which this tokenizer cannot read as text; "
                "take a fast tokenizer, or drop such rows"
            )
    joined = [["".join(parts) for parts in side] for side in sides]
    names = ("text_target", "text_pair_target") if target else ("text", "text_pair")
    encoded: BatchEncoding = tokenizer(**dict(zip(names, joined, strict=False)), **options)
    return encoded


def _reads_control(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Tell whether a tokenizer reads a control token in a text even with `split_special_tokens`."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return not set(tokenizer.all_special_ids).isdisjoint({*ids} - {tokenizer.unk_token_id})
