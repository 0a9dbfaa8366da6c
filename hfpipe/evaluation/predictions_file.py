"""The predictions of a model, written row by row with the inputs: `predictions.parquet`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hfpipe.metrics.metric import to_object_array
from hfpipe.store.artifacts import find_renamed_columns
from hfpipe.store.store import check_file, report_unreadable

TYPES = {"id": pa.string(), "row": pa.int64()}
"""Columns with a fixed type."""
ATTRS = b"PANDAS_ATTRS"
"""Entry of the file's metadata that pandas reads as `DataFrame.attrs`."""
ROWS_AT_ONCE = 4096
"""Number of rows written together; the memory of Parquet per row group stays small."""


class Inputs:
    """The columns that a task reads, which are copied to its predictions with their types."""

    def __init__(self, rows: datasets.Dataset, names: Sequence[str]) -> None:
        there = [name for name in names if name in rows.column_names]
        self._rows = rows.select_columns(there).with_format("arrow")
        schema = self._rows.features.arrow_schema
        self.types = {name: schema.field(name).type for name in there}

    def read_columns(self, positions: Sequence[int]) -> dict[str, list[Any]]:
        """Return the columns of some rows of the split."""
        if not self.types or not len(positions):
            return {name: [] for name in self.types}
        table: pa.Table = self._rows[list(positions)]
        return {name: table[name].to_pylist() for name in self.types}


class Predictions:
    """A Parquet file to which rows are appended; the first rows define its columns.

    `classes` maps columns with a value for each class to the names of the classes in their order. The file
    stores them, and the list of its `inputs`, in its metadata: `pandas.read_parquet(FILE).attrs`. An input
    with the name of a prediction is written as `input_NAME`.
    """

    def __init__(
        self,
        path: Path,
        inputs: Inputs | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._path = path
        self._inputs = inputs
        self._classes = {name: list(names) for name, names in (classes or {}).items()}
        self._types = dict(TYPES)
        self._names: list[str] = []
        self._writer: pq.ParquetWriter | None = None
        self._waiting: dict[str, list[Any]] = {}
        self._enough = ROWS_AT_ONCE

    def __enter__(self) -> Predictions:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, ids: Sequence[str], positions: np.ndarray, columns: Mapping[str, Any]) -> None:
        """Append rows: ids, positions in the split (column `row`), and columns of values or lists."""
        made = {"id": ids, "row": positions, **columns}
        for name, values in {**made, **self._read_inputs(positions, made)}.items():
            self._waiting.setdefault(name, []).extend(values)
        if len(self._waiting["row"]) >= self._enough:
            self._write()

    def _read_inputs(self, positions: np.ndarray, made: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the inputs of some rows, renamed if a prediction has the same name."""
        if self._inputs is None:
            return {}
        names = {name: f"input_{name}" if name in made else name for name in self._inputs.types}
        self._types |= {names[name]: kind for name, kind in self._inputs.types.items()}
        self._names = list(names.values())
        return {names[name]: values for name, values in self._inputs.read_columns(positions.tolist()).items()}

    def _create_metadata(self) -> dict[bytes, bytes]:
        return {ATTRS: json.dumps({"classes": self._classes, "inputs": self._names}).encode()}

    def _write(self, *, last: bool = False) -> None:
        waiting = self._waiting.items()
        table = pa.table({name: pa.array(values, self._types.get(name)) for name, values in waiting})
        if self._writer is None:
            if not last and not all(_is_certain(kind) for kind in table.schema.types):
                self._enough *= 2  # later rows may define the types
                return
            self._writer = pq.ParquetWriter(self._path, table.schema.with_metadata(self._create_metadata()))
        self._waiting.clear()
        self._writer.write_table(table.cast(self._writer.schema))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting and error is None:
            self._write(last=True)
        if self._writer is not None:
            self._writer.close()


def _is_certain(kind: pa.DataType) -> bool:
    """Return whether the type of a column is known, not only missing values or empty lists."""
    return _is_certain(kind.value_type) if pa.types.is_list(kind) else not pa.types.is_null(kind)


def write_joined(parts: Sequence[Path], path: Path) -> None:
    """Write the files of several processes as one, a row group at a time."""
    there = [part for part in parts if part.exists()]
    schemas = [pq.read_schema(part) for part in there]
    schema = pa.unify_schemas(schemas, promote_options="permissive").with_metadata(schemas[0].metadata)
    with pq.ParquetWriter(path, schema) as writer:
        for part in there:
            with pq.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number).cast(schema))


def read_predictions(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the positions of the rows in the split, ascending, and all columns except inputs in that order.

    Numbers and lists of equally many numbers become arrays of shape (n,) and (n, k), all else objects.
    Raises StageError when the file is damaged.
    """
    check_file(path)
    with report_unreadable(path):
        schema = pq.read_schema(path)
        inputs = json.loads((schema.metadata or {}).get(ATTRS, b"{}")).get("inputs", [])
        table = pq.read_table(path, columns=[name for name in schema.names if name not in inputs])
        table = table.sort_by("row")
    names = find_renamed_columns(schema.names, inputs)
    columns = {names.get(name, name): _to_array(table[name].combine_chunks()) for name in table.column_names}
    return columns.pop("row"), columns


def _to_array(values: pa.Array) -> np.ndarray:
    kind = values.type
    if pa.types.is_list(kind) and _is_numeric(kind.value_type) and not values.null_count:
        lengths = set(values.value_lengths().to_pylist())
        if len(lengths) == 1:
            return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), lengths.pop())
    if _is_numeric(kind) and not values.null_count:
        return values.to_numpy(zero_copy_only=False)
    return to_object_array(values.to_pylist())


def _is_numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
