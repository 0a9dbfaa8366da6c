"""Reads numbers and lists of numbers directly from an Arrow table, without a query per batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Value = Callable[[int], Any]
"""Returns the value at a row of a chunk."""


class ExampleReader:
    """Returns the rows of a table as dictionaries of NumPy values; reads only the memory of these rows."""

    def __init__(self, table: pa.Table) -> None:
        """`table` must satisfy `can_read`."""
        batches = table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._batches = [
            {name: _make_value_reader(batch[name]) for name in table.column_names} for batch in batches
        ]

    def read(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows at these indices: integers as int64, floats as float32, lists as 1-d arrays."""
        found = []
        for index in indices:
            number = int(np.searchsorted(self._starts, index, side="right")) - 1
            row = index - int(self._starts[number])
            found.append({name: value(row) for name, value in self._batches[number].items()})
        return found


def can_read(table: pa.Table) -> bool:
    """Return whether all columns are numbers or lists of numbers, without missing values."""
    return all(
        not column.null_count
        and (
            _has_numbers(column.type)
            or (pa.types.is_list(column.type) and _has_numbers(column.type.value_type))
        )
        and not (pa.types.is_list(column.type) and any(chunk.values.null_count for chunk in column.chunks))
        for column in table.columns
    )


def _has_numbers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _make_value_reader(column: pa.Array) -> Value:
    if not pa.types.is_list(column.type):
        numbers, kind = column.to_numpy(), _choose_dtype(column.type)
        return lambda row: kind(numbers[row])
    offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
    kind = _choose_dtype(column.type.value_type)
    return lambda row: values[offsets[row] : offsets[row + 1]].astype(kind)


def _choose_dtype(kind: pa.DataType) -> type[np.int64] | type[np.float32]:
    return np.float32 if pa.types.is_floating(kind) else np.int64
