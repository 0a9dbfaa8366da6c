"""One row on its way from a source to a split, with the place that an error message names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heappush, heapreplace
from itertools import chain
from operator import itemgetter
from typing import Any

from hfpipe.data.readers.file_options import Findings

STEP = 1000
"""Rows after which progress is shown."""


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
    """What the text columns hold, each word of a list and each message by itself, "" for null.

    Changed by `rewrite`.
    """
    calls: str = ""
    """Calls of tools in conversations as JSON, by which rows of equal texts may differ."""
    _digest: bytes = b""
    sparse: bool = False
    """Whether a column may be missing and is null then, as in JSON."""

    @property
    def place(self) -> str:
        """Where the row was read, as `a.jsonl, line 812`."""
        return f"{self.origin} {self.number}"

    @property
    def characters(self) -> int:
        """Code points in all text columns."""
        return len(self.texts[0]) if len(self.texts) == 1 else sum(map(len, self.texts))

    def rewrite(self, columns: Sequence[str], texts: list[str]) -> None:
        """Put new texts into the text columns, as many as there were."""
        self.texts, self._digest = texts, b""
        rest = iter(texts)
        for name in columns:
            old = self.values[name]
            if isinstance(old, (list, tuple)):
                self.values[name] = [_rewritten(part, rest) for part in old]
            else:
                self.values[name] = _rewritten(old, rest)

    def digest(self) -> bytes:
        """Return 16 bytes that tell texts and calls apart; lengths keep columns from running together."""
        if not self._digest:
            texts = [*self.texts, self.calls] if self.calls else self.texts
            if len(texts) == 1:  # the usual case, without lists
                part = texts[0].encode("utf-8", "surrogatepass")
                self._digest = blake2b(len(part).to_bytes(8, "little") + part, digest_size=16).digest()
                return self._digest
            parts = [text.encode("utf-8", "surrogatepass") for text in texts]
            lengths = [len(part).to_bytes(8, "little") for part in parts]
            self._digest = blake2b(b"".join(chain(lengths, parts)), digest_size=16).digest()
        return self._digest


def _rewritten(old: Any, texts: Iterator[str]) -> Any:
    """Return the next text as a text or as the content of a message; what is null stays null."""
    text = next(texts)
    if isinstance(old, str):
        return text
    return old if old is None or old.get("content") is None else {**old, "content": text}


@dataclass(frozen=True)
class Given:
    """What a source gives: rows, by split where it has splits, and class names where it knows them."""

    splits: dict[str | None, Iterable[Row]]
    """Split → rows; the key is None when the source has no splits."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Column → names of its classes, in the order of their ids."""
    found: Findings = field(default_factory=Findings)
    """How files were read, known once their rows are."""
    read: Counter[str | None] = field(default_factory=Counter)
    """Split → rows read so far, those that `limit` leaves out included."""

    def rows(self, limit: int | None, seed: int, advance: Callable[[int], None]) -> Iterator[Row]:
        """Yield the rows of all splits, train last; of each an even sample of `limit` rows, if one is set.

        Held-out splits come first because the first of two duplicates stays: a duplicate then leaves
        the training rows, and a test set is scored whole. `advance` takes the rows read since its last call.
        """
        for split in sorted(self.splits, key=lambda name: name == "train"):
            rows: Iterable[Row] = self._counted(split, advance)
            for row in rows if limit is None else even_sample(rows, limit, f"{seed} {split}"):
                row.split = split
                yield row

    def _counted(self, split: str | None, advance: Callable[[int], None]) -> Iterator[Row]:
        number = 0
        for number, row in enumerate(self.splits[split], 1):
            if number % STEP == 0:
                advance(STEP)
            yield row
        self.read[split] = number


def even_sample(rows: Iterable[Row], limit: int, salt: str) -> list[Row]:
    """Return `limit` rows drawn without replacement, in their order; all when there are no more.

    The draw depends on salt and position only, and each row is as likely as any other: the rows kept are
    those whose positions have the smallest digests. The source is read to its end, and no more rows than are
    kept are in memory.
    """
    key = blake2b(salt.encode(), digest_size=16).digest()
    kept: list[tuple[int, int, Row]] = []
    for position, row in enumerate(rows):
        rank = blake2b(position.to_bytes(8, "little"), digest_size=8, key=key).digest()
        entry = (-int.from_bytes(rank, "little"), position, row)
        if len(kept) < limit:
            heappush(kept, entry)
        elif entry > kept[0]:
            heapreplace(kept, entry)
    return [row for _, _, row in sorted(kept, key=itemgetter(1))]


def find_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that stands there twice, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
