"""Reads the texts of a split's columns one at a time: all of them or a uniform sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from hfpipe.errors import DataError

if TYPE_CHECKING:
    from hfpipe.contract import Progress

ROWS_AT_ONCE = 1000


@dataclass
class Texts:
    """Iterable over the texts of some columns of a split, at most `max_bytes` in UTF-8.

    If there is more text, the sample is deterministic and spread evenly over the split: a text is taken
    whenever the bytes taken are less than their share of the bytes read so far. The last text is truncated to
    fit. Each iteration resets the counts.

    Raises DataError when a column is missing or contains no text.
    """

    split: datasets.Dataset
    columns: Sequence[str]
    max_bytes: int
    progress: Progress
    taken: int = 0
    taken_bytes: int = 0
    passed_over: int = 0
    """Number of texts that were not sampled."""
    missing: int = 0
    """Number of rows whose text is null or empty."""

    def __post_init__(self) -> None:
        for column in self.columns:
            feature = self.split.features.get(column)
            if feature is None:
                there = ", ".join(self.split.column_names)
                raise DataError(f"text: the data set has no column {column!r}; it has {there}")
            one = feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else feature
            if getattr(one, "dtype", None) not in ("string", "large_string"):
                raise DataError(f"text: column {column!r} does not hold text; name one that does")

    def make_ledger(self) -> dict[str, int]:
        """Return the counts of rows in the last iteration; a row is counted once per column."""
        return {
            "rows_in": len(self.split) * len(self.columns),
            "learned_from": self.taken,
            "beyond_max_bytes": self.passed_over,
            "without_text": self.missing,
        }

    def __iter__(self) -> Iterator[str]:
        self.taken = self.taken_bytes = self.passed_over = self.missing = passed = 0
        total = sum(pc.sum(pc.binary_length(column)).as_py() or 0 for column in self._read_chunks())
        share = min(1.0, self.max_bytes / max(1, total))
        with self.progress("reading text", len(self.split) * len(self.columns)) as advance:
            for column in self._read_chunks():
                for value in column:
                    text = value.as_py()
                    if not text:
                        self.missing += 1
                        continue
                    raw = text.encode()
                    passed += len(raw)
                    if self.taken_bytes >= min(share * passed, self.max_bytes):
                        self.passed_over += 1
                        continue
                    raw = raw[: self.max_bytes - self.taken_bytes]
                    self.taken += 1
                    self.taken_bytes += len(raw)
                    yield raw.decode(errors="ignore")
                advance(len(column))

    def _read_chunks(self) -> Iterator[pa.ChunkedArray]:
        split = self.split.select_columns(list(self.columns)).with_format("arrow")
        for batch in split.iter(batch_size=ROWS_AT_ONCE):
            for column in batch.itercolumns():
                words = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
                yield pc.binary_join(column, " ") if words else column
