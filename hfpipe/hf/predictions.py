"""What a model said of each row, written as it is said: `predictions.parquet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hfpipe.metrics.metric import objects

TYPES = {"id": pa.string(), "row": pa.int64()}
"""Columns whose type the rows need not tell."""
ROWS_AT_ONCE = 4096
"""Rows written together: what Parquet holds in memory of each group of rows does not add up to much."""


class Predictions:
    """A Parquet file that grows as rows come; the first decide its columns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._waiting: dict[str, list[Any]] = {}
        self._enough = ROWS_AT_ONCE

    def __enter__(self) -> Predictions:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, ids: Sequence[str], positions: np.ndarray, columns: Mapping[str, Any]) -> None:
        """Append rows: ids, positions in the split (column `row`), one value or list of values each."""
        for name, values in {"id": ids, "row": positions, **columns}.items():
            self._waiting.setdefault(name, []).extend(values)
        if len(self._waiting["row"]) >= self._enough:
            self._write()

    def _write(self, *, last: bool = False) -> None:
        table = pa.table({name: pa.array(values, TYPES.get(name)) for name, values in self._waiting.items()})
        if self._writer is None:
            if not last and not all(_known(kind) for kind in table.schema.types):
                self._enough *= 2  # rows to come may tell
                return
            self._writer = pq.ParquetWriter(self._path, table.schema)
        self._waiting.clear()
        self._writer.write_table(table.cast(self._writer.schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting and error is None:
            self._write(last=True)
        if self._writer is not None:
            self._writer.close()


def _known(kind: pa.DataType) -> bool:
    """Tell whether there was a value to tell a column's type by, not only missing ones or empty lists."""
    return _known(kind.value_type) if pa.types.is_list(kind) else not pa.types.is_null(kind)


def joined(parts: Sequence[Path], path: Path) -> None:
    """Write the files of several processes as one, a row group at a time."""
    there = [part for part in parts if part.exists()]
    schema = pa.unify_schemas([pq.read_schema(part) for part in there], promote_options="permissive")
    with pq.ParquetWriter(path, schema) as writer:
        for part in there:
            with pq.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number).cast(schema))


def read(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the rows' positions in the split, ascending, and each column in that order.

    Numbers and lists of equally many numbers become arrays of shape (n,) and (n, k), all else objects.
    """
    table = pq.read_table(path).sort_by("row")
    columns = {name: _column(table[name].combine_chunks()) for name in table.column_names}
    return columns.pop("row"), columns


def _column(values: pa.Array) -> np.ndarray:
    kind = values.type
    if pa.types.is_list(kind) and _numeric(kind.value_type) and not values.null_count:
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) == 1:
            return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), lengths.pop())
    if _numeric(kind) and not values.null_count:
        return values.to_numpy(zero_copy_only=False)
    return objects(values.to_pylist())


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
