"""One row on its way from a source to a split, with the place that an error message names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, islice
from typing import Any


@dataclass(slots=True)
class Row:
    """Values by column, and where they were read."""

    values: dict[str, Any]
    origin: str
    """What `number` counts, as `a.jsonl, line`."""
    number: int
    """Counted from 1."""
    split: str | None = None
    """The split the source gives, if it gives splits."""
    texts: list[str] = field(default_factory=list)
    """What the text columns hold, each word of a list and each message by itself; changed by `rewrite`."""
    _digest: bytes = b""

    @property
    def place(self) -> str:
        """Where the row was read, as `a.jsonl, line 812`."""
        return f"{self.origin} {self.number}"

    @property
    def characters(self) -> int:
        """Code points in all text columns."""
        return sum(map(len, self.texts))

    def rewrite(self, columns: Sequence[str], texts: list[str]) -> None:
        """Put new texts into the text columns, as many as there were."""
        self.texts, self._digest = texts, b""
        rest = iter(texts)
        for name in columns:
            old = self.values[name]
            self.values[name] = next(rest) if isinstance(old, str) else [_said(part, rest) for part in old]

    def digest(self) -> bytes:
        """Return 16 bytes that tell the texts apart; lengths go in so that columns cannot run together."""
        if not self._digest:
            parts = [text.encode("utf-8", "surrogatepass") for text in self.texts]
            lengths = [len(part).to_bytes(8, "little") for part in parts]
            self._digest = blake2b(b"".join(chain(lengths, parts)), digest_size=16).digest()
        return self._digest


def _said(part: str | Mapping[str, Any], texts: Iterator[str]) -> str | dict[str, Any]:
    """Return the next text as a word, or as the content of a message."""
    return next(texts) if isinstance(part, str) else {**part, "content": next(texts)}


@dataclass(frozen=True)
class Given:
    """What a source gives: rows, by split where it has splits, and class names where it knows them."""

    splits: dict[str | None, Iterable[Row]]
    """Split → rows; the key is None when the source has no splits."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Column → names of its classes, in the order of their ids."""

    def rows(self, limit: int | None) -> Iterator[Row]:
        """Yield the rows of all splits, train last, at most `limit` of each.

        Held-out splits come first because the first of two duplicates stays: a duplicate then leaves
        the training rows, and a test set is scored whole.
        """
        for split in sorted(self.splits, key=lambda name: name == "train"):
            for row in islice(self.splits[split], limit):
                row.split = split
                yield row


def listed(names: Sequence[str]) -> str:
    """Return names for a message, quoted, in the order given."""
    return ", ".join(repr(name) for name in names)
