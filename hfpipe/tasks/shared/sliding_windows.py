"""Splits long texts into overlapping windows with character offsets, so that nothing is truncated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from hfpipe.errors import DataError, StageError
from hfpipe.tokenization.encoding import encode_plain, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
"""Position of the first character, and of the one after the last."""


class Window(NamedTuple):
    """Part of a text that fits the model, with special tokens and the text that precedes every window."""

    row: int
    """Index of the text in the input."""
    input_ids: list[int]
    token_type_ids: list[int]
    """Empty if the tokenizer has none."""
    spans: list[Span | None]
    """Character span of each token in the text, without white space; None for tokens without characters."""


def encode_sliding_windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    length: int,
    stride: int,
    before: Sequence[str] | None = None,
) -> list[Window]:
    """Return the windows of several texts in order, each of at most `length` tokens, at least one per text.

    Consecutive windows share `stride` tokens. `before` are texts that precede every window in full, such as
    questions; if one leaves little room, fewer tokens are shared.
    Raises StageError when the tokenizer has no character offsets, DataError when there is no room.
    """
    if not tokenizer.is_fast:
        raise StageError("this tokenizer does not give the offsets of its tokens in the text; use a fast one")
    shared = [stride] * len(texts)
    if before is not None:
        shared = [min(stride, room // 2) for room in _compute_room_by_row(tokenizer, before, length)]
    found: list[Window] = []
    # A call has one stride for all texts, so texts with long questions are encoded separately.
    for overlap, group in groupby(sorted(range(len(texts)), key=shared.__getitem__), shared.__getitem__):
        rows = list(group)
        pairs = [before[row] for row in rows] if before is not None else None
        found += _encode_windows(tokenizer, rows, [texts[row] for row in rows], pairs, length, overlap)
    return sorted(found, key=lambda window: window.row)


def _compute_room_by_row(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[str], length: int
) -> Iterator[int]:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for text, ids in zip(before, encode_plain(tokenizer, before), strict=True):
        room = length - special - len(ids)
        if room < 2:
            raise DataError(
                f"{text!r:.60} takes {len(ids)} of {length} tokens and leaves no room; raise `length`"
            )
        yield room


def _encode_windows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[int],
    texts: list[str],
    before: list[str] | None,
    length: int,
    stride: int,
) -> Iterator[Window]:
    both: tuple[Any, ...] = (texts,) if before is None else (before, texts)
    encoded = encode_texts(
        tokenizer,
        *both,
        truncation=True if before is None else "only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    mine = len(both) - 1
    types = encoded.get("token_type_ids") or [[]] * len(encoded["input_ids"])
    for number, text in enumerate(encoded["overflow_to_sample_mapping"]):
        pieces = zip(encoded.sequence_ids(number), encoded["offset_mapping"][number], strict=True)
        spans = [_trim(texts[text], *span) if sequence == mine else None for sequence, span in pieces]
        # Without text tokens and special tokens the window would be empty.
        ids = encoded["input_ids"][number] or [tokenizer.pad_token_id or 0]
        yield Window(rows[text], ids, types[number], spans or [None])


def _trim(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    start, end = end - len(piece.lstrip()), start + len(piece.rstrip())
    return (start, end) if start < end else None
