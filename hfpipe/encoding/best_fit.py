"""Packs whole documents into examples by best fit, so that examples begin at the beginning of a document.

Best-fit decreasing (Ding et al., 2024, "Fewer Truncations Improve Language Modeling"): the documents of a
window are sorted by length, longest first, and each is added to the example with the least sufficient room.
This is `bfd` in TRL, which drops the excess of longer documents; here it continues in further examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hfpipe.encoding.shards import Batch
from hfpipe.tokenization.ragged import Ragged

WINDOW = 1 << 22
"""Tokens of documents that are packed together; 16 MB, and half-empty examples are rare."""


def pack_best_fit(
    batches: Iterator[Batch], length: int, shared: int, opening: Sequence[int], window: int = WINDOW
) -> Iterator[Batch]:
    """Yield the ids of all documents as examples of at most `length` ids, packing one `window` at a time.

    `opening` are ids at the beginning of every example that does not continue a document. A document longer
    than an example is split into parts that share `shared` ids; the last part is filled up with other
    documents. No state is kept between batches, so that an encoding can be resumed after any of them.
    """
    held: list[Ragged] = []
    rows = truncated = tokens = 0
    for batch in batches:
        ids = batch.columns["input_ids"]
        documents = ids if isinstance(ids, Ragged) else Ragged.from_rows(ids)
        held.append(documents)
        rows, truncated = rows + batch.rows, truncated + batch.truncated
        tokens += len(documents.values)
        if tokens >= window:
            yield Batch({"input_ids": _lay_out(held, length, shared, opening)}, rows, truncated)
            held, rows, truncated, tokens = [], 0, 0, 0
    if held:
        yield Batch({"input_ids": _lay_out(held, length, shared, opening)}, rows, truncated)


def _lay_out(held: Sequence[Ragged], length: int, shared: int, opening: Sequence[int]) -> Ragged:
    first = np.array(opening, dtype=np.int32)
    documents = [document for part in held for document in part if len(document)]
    whole = [document for document in documents if len(first) + len(document) <= length]
    examples = _Examples(length)
    for document in documents:
        if len(first) + len(document) > length:
            for part in _split_document(np.concatenate([first, document]), length, shared):
                examples.open([part])
    for number in sorted(range(len(whole)), key=lambda number: -len(whole[number])):
        if not examples.add(whole[number]):
            examples.open([first, whole[number]])
    return Ragged.from_rows(np.concatenate(parts) for parts in examples.parts)


def _split_document(ids: np.ndarray, length: int, shared: int) -> Iterator[np.ndarray]:
    """Yield the parts of a document that is longer than an example."""
    for start in range(0, len(ids) - shared, length - shared):
        yield ids[start : start + length]


class _Examples:
    """Examples that are being filled, indexed by their remaining room."""

    def __init__(self, length: int) -> None:
        self.parts: list[list[np.ndarray]] = []
        self._length = length
        self._with_room: list[list[int]] = [[] for _ in range(length + 1)]
        self._rooms = 0
        """Bit n is set if an example has room for exactly n ids."""

    def open(self, parts: list[np.ndarray]) -> None:
        """Begin a new example with these parts."""
        self.parts.append(parts)
        self._note_room(len(self.parts) - 1, self._length - sum(map(len, parts)))

    def add(self, document: np.ndarray) -> bool:
        """Add a document to the example with the least room for it; return whether there is one."""
        fitting = self._rooms >> len(document)
        if not fitting:
            return False
        room = len(document) + (fitting & -fitting).bit_length() - 1
        number = self._with_room[room].pop()
        if not self._with_room[room]:
            self._rooms ^= 1 << room
        self.parts[number].append(document)
        self._note_room(number, room - len(document))
        return True

    def _note_room(self, number: int, room: int) -> None:
        self._with_room[room].append(number)
        self._rooms |= 1 << room
