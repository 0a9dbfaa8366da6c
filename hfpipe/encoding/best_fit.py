"""Packs whole documents into examples by best fit, so that each example begins with a document.

Best-fit decreasing (Ding et al., 2024, "Fewer Truncations Improve Language Modeling"): the documents of a
window are sorted by length, longest first, and each is added to the example with the least sufficient room.
This is `bfd` in TRL, which drops the excess of longer documents; here it continues in further examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
    for held in _group_into_windows(batches, window):
        ids = Ragged.from_rows(
            map(np.concatenate, _fill_examples(_iterate_documents(held), length, shared, opening).parts)
        )
        yield Batch({"input_ids": ids}, sum(each.rows for each in held), sum(each.truncated for each in held))


def locate_documents(
    batches: Iterator[Batch], length: int, shared: int, opening: Sequence[int]
) -> Iterator[list[int]]:
    """Yield the rows of the documents in each example that `pack_best_fit` makes, in their order there.

    The batches have a column `row`, the row of each document.
    """
    for held in _group_into_windows(batches, WINDOW):
        rows = [int(row) for batch in held for row in batch.columns["row"]]
        for numbers in _fill_examples(_iterate_documents(held), length, shared, opening).documents:
            yield [rows[number] for number in numbers]


def _group_into_windows(batches: Iterator[Batch], window: int) -> Iterator[list[Batch]]:
    held: list[Batch] = []
    tokens = 0
    for batch in batches:
        ids = batch.columns["input_ids"]
        held.append(batch)
        tokens += len(ids.values) if isinstance(ids, Ragged) else sum(map(len, ids))
        if tokens >= window:
            yield held
            held, tokens = [], 0
    if held:
        yield held


def _iterate_documents(held: Sequence[Batch]) -> Iterator[np.ndarray]:
    for batch in held:
        ids = batch.columns["input_ids"]
        yield from ids if isinstance(ids, Ragged) else Ragged.from_rows(ids)


def _fill_examples(
    documents: Iterable[np.ndarray], length: int, shared: int, opening: Sequence[int]
) -> _Examples:
    first = np.array(opening, dtype=np.int32)
    whole: dict[int, np.ndarray] = {}
    examples = _Examples(length)
    for number, document in enumerate(documents):
        if len(first) + len(document) > length:
            for part in _split_document(np.concatenate([first, document]), length, shared):
                examples.open([part], number)
        elif len(document):
            whole[number] = document
    for number in sorted(whole, key=lambda number: -len(whole[number])):
        if not examples.add(whole[number], number):
            examples.open([first, whole[number]], number)
    return examples


def _split_document(ids: np.ndarray, length: int, shared: int) -> Iterator[np.ndarray]:
    """Yield the parts of a document that is longer than an example."""
    for start in range(0, len(ids) - shared, length - shared):
        yield ids[start : start + length]


class _Examples:
    """Examples that are being filled, indexed by their remaining room."""

    def __init__(self, length: int) -> None:
        self.parts: list[list[np.ndarray]] = []
        self.documents: list[list[int]] = []
        """Numbers of the documents in each example."""
        self._length = length
        self._with_room: list[list[int]] = [[] for _ in range(length + 1)]
        self._rooms = 0
        """Bit n is set if an example has room for exactly n ids."""

    def open(self, parts: list[np.ndarray], number: int) -> None:
        """Begin a new example with these parts of a document."""
        self.parts.append(parts)
        self.documents.append([number])
        self._note_room(len(self.parts) - 1, self._length - sum(map(len, parts)))

    def add(self, document: np.ndarray, number: int) -> bool:
        """Add a document to the example with the least room for it; return whether there is one."""
        fitting = self._rooms >> len(document)
        if not fitting:
            return False
        room = len(document) + (fitting & -fitting).bit_length() - 1
        example = self._with_room[room].pop()
        if not self._with_room[room]:
            self._rooms ^= 1 << room
        self.parts[example].append(document)
        self.documents[example].append(number)
        self._note_room(example, room - len(document))
        return True

    def _note_room(self, example: int, room: int) -> None:
        self._with_room[room].append(example)
        self._rooms |= 1 << room
