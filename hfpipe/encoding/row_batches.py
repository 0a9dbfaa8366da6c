"""Reads the rows of a split in order, in batches, without memory-mapping its files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import datasets
import pyarrow as pa
from datasets.table import ConcatenationTable, MemoryMappedTable, Table

from hfpipe.encoding.nested import read_rows

if TYPE_CHECKING:
    from hfpipe.types import Rows


def iterate_batches(rows: datasets.Dataset, size: int, start: int = 0) -> Iterator[tuple[range, Rows]]:
    """Yield batches of `size` rows from `start` on: their positions, and their columns as Python values.

    If `rows` is a whole split, its files are read rather than memory-mapped, because mapped pages count as
    memory of the process until they are evicted.
    """
    files = _find_whole_files(rows)
    tables = _iterate_mapped(rows, size, start) if files is None else _read_tables(files, size, start)
    for table in tables:
        positions = range(start, start + len(table))
        batch = datasets.Dataset(table, rows.info, fingerprint="batch")  # avoids hashing the table
        yield positions, read_rows(batch, range(len(table)))
        start = positions.stop


def _find_whole_files(rows: datasets.Dataset) -> Sequence[str] | None:
    """Return the files that contain exactly the rows of a split, in their order, or None.

    None if rows were selected or a column was added in memory, so that the split differs from its files.
    """
    table = rows.data
    blocks = table.blocks if isinstance(table, ConcatenationTable) else [[table]]
    if rows._indices is not None or not all(len(parts) == 1 and _is_file(parts[0]) for parts in blocks):
        return None
    return [parts[0].path for parts in blocks]


def _is_file(table: Table) -> bool:
    """Return whether a table is a whole file on disk; changed metadata do not matter."""
    return isinstance(table, MemoryMappedTable) and all(
        name == "replace_schema_metadata" for name, *_ in table.replays or ()
    )


def _iterate_mapped(rows: datasets.Dataset, size: int, start: int) -> Iterator[pa.Table]:
    plain = rows.with_format("arrow")
    for first in range(start, len(rows), size):
        yield plain[first : first + size]


def _read_tables(files: Sequence[str], size: int, start: int) -> Iterator[pa.Table]:
    """Yield the rows from `start` on in tables of `size` rows, whatever the sizes of the record batches."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in _read_record_batches(files):
        if batch.num_rows <= start:
            start -= batch.num_rows
            continue
        waiting.append(batch.slice(start))
        count, start = count + batch.num_rows - start, 0
        while count >= size:
            table = pa.Table.from_batches(waiting)
            yield table.slice(0, size)
            waiting, count = table.slice(size).to_batches(), count - size
    if count:
        yield pa.Table.from_batches(waiting)


def _read_record_batches(files: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for file in files:
        with pa.OSFile(file) as source, pa.ipc.open_stream(source) as stream:
            yield from stream
