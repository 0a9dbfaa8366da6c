"""A row between source and split, with its location for error messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import heappush, heapreplace
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias

from hfpipe.data.readers.file_options import Findings
from hfpipe.errors import DataError

STEP = 1000
"""Number of rows between progress updates."""

Limit: TypeAlias = int | Mapping[str, int] | None
"""Maximum number of rows of each split, or of the named ones."""


@dataclass(slots=True)
class Row:
    """Values by column, and the location from which they were read."""

    values: dict[str, Any]
    origin: str
    """What `number` counts, such as `a.jsonl, line`."""
    number: int
    """Number within `origin`, counted from 1."""
    split: str | None = None
    """The split in the source, if it has splits."""
    texts: list[str] = field(default_factory=list)
    """Contents of the text columns, one item per word of a list and per message, "" for null.

    Changed by `rewrite`.
    """
    calls: str = ""
    """Tool calls in conversations as JSON; rows with equal texts may differ in them."""
    _digest: bytes = b""
    sparse: bool = False
    """Whether a column may be missing, which means null, as in JSON."""

    @property
    def place(self) -> str:
        """Location of the row, such as `a.jsonl, line 812`."""
        return f"{self.origin} {self.number}"

    @property
    def characters(self) -> int:
        """Number of code points in all text columns."""
        return len(self.texts[0]) if len(self.texts) == 1 else sum(map(len, self.texts))

    def rewrite(self, columns: Sequence[str], texts: list[str]) -> None:
        """Replace the texts of the text columns; the number of texts must not change."""
        self.texts, self._digest = texts, b""
        rest = iter(texts)
        for name in columns:
            old = self.values[name]
            if isinstance(old, (list, tuple)):
                self.values[name] = [_replace_text(part, rest) for part in old]
            else:
                self.values[name] = _replace_text(old, rest)

    def digest(self) -> bytes:
        """Return a digest of texts and calls, 16 bytes; it includes lengths, so texts are not confused."""
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


def _replace_text(old: Any, texts: Iterator[str]) -> Any:
    """Return the value with the next text in place of the old text or message content; null stays null."""
    text = next(texts)
    if isinstance(old, str):
        return text
    return old if old is None or old.get("content") is None else {**old, "content": text}


@dataclass(frozen=True)
class SourceRows:
    """Output of a source: rows, by split if it has splits, and class names if it has them."""

    splits: dict[str | None, Iterable[Row]]
    """Split → rows; the key is None if the source has no splits."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Column → its class names, in the order of their ids."""
    found: Findings = field(default_factory=Findings)
    """How files were read; complete after their rows are read."""
    read: Counter[str | None] = field(default_factory=Counter)
    """Split → number of rows read so far, including those that `limit` omits."""

    def iterate_rows(self, limit: Limit, seed: int, advance: Callable[[int], None]) -> Iterator[Row]:
        """Yield the rows of all splits, train last; with `limit`, a uniform sample of as many rows per split.

        Held-out splits come first because the first of two duplicates is kept: duplicates are then removed
        from the training rows, and test sets stay complete. `advance` receives the number of rows read since
        its last call. Raises DataError if `limit` names a split that the source does not have.
        """
        self._require_splits(limit if isinstance(limit, Mapping) else {})
        for split in sorted(self.splits, key=lambda name: name == "train"):
            rows: Iterable[Row] = self._count_rows(split, advance)
            most = get_limit(limit, split)
            for row in rows if most is None else sample_rows_evenly(rows, most, f"{seed} {split}"):
                row.split = split
                yield row

    def _require_splits(self, named: Iterable[str]) -> None:
        for split in named:
            if split not in self.splits:
                there = ", ".join(sorted(name for name in self.splits if name)) or "none"
                raise DataError(
                    f"limit: the source has no split {split!r}; its splits: {there}. To sample a split that "
                    "this stage makes, add a data set with `source: {stage: NAME}` and the limit"
                )

    def _count_rows(self, split: str | None, advance: Callable[[int], None]) -> Iterator[Row]:
        number = 0
        for number, row in enumerate(self.splits[split], 1):
            if number % STEP == 0:
                advance(STEP)
            yield row
        self.read[split] = number


def get_limit(limit: Limit, split: str | None) -> int | None:
    """Return the maximum number of rows of a split, None without a limit."""
    return limit.get(split or "") if isinstance(limit, Mapping) else limit


def sample_rows_evenly(rows: Iterable[Row], limit: int, salt: str) -> list[Row]:
    """Return `limit` rows sampled without replacement, in their order; all rows if there are no more.

    The sample is uniform and depends only on the salt and the positions: the rows whose positions have the
    smallest digests are kept. The source is read to its end; only the sampled rows are kept in memory.
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
    """Return the first repeated name, or None."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
