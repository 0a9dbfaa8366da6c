"""Reads Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hfpipe.data.readers.file_options import DataFile
from hfpipe.data.rows import Row, find_repeated
from hfpipe.errors import DataError, format_typed_line

ROWS = 1000
"""Number of rows converted to Python objects at a time."""


def read_parquet(file: DataFile) -> Iterator[Row]:
    """Yield the rows of a Parquet file. Raises DataError that names a column that cannot be read."""
    with pq.ParquetFile(file.path) as parquet:
        yield from _convert_batches(file, parquet.schema_arrow, parquet.iter_batches(batch_size=ROWS))


def read_arrow(file: DataFile) -> Iterator[Row]:
    """Yield the rows of an Arrow stream or file. Raises DataError that names an invalid column."""
    with pa.memory_map(str(file.path)) as source:
        try:
            stream = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            whole = pa.ipc.open_file(source)
            batches = (whole.get_batch(number) for number in range(whole.num_record_batches))
            yield from _convert_batches(file, whole.schema, _validate_batches(batches))
        else:
            yield from _convert_batches(file, stream.schema, _validate_batches(iter(stream)))


def _validate_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Validate offsets and indices, which Arrow does not check; in a damaged file they point anywhere."""
    for batch in batches:
        batch.validate(full=True)
        yield from (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))


def _convert_batches(file: DataFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[Row]:
    twice = find_repeated(schema.names)
    if twice is not None:
        raise DataError(f"{file.name}: has two columns of the name {twice!r}; rename one")
    for field in schema:
        if (kept := _find_wide_type(field.type)) is not None:
            file.found.types.setdefault(field.name, kept)
    readers = {field.name: _make_map_converter(field.type) for field in schema}
    number = 0
    for batch in batches:
        columns = [
            _convert_column(file, batch.column(place), name, number, change)
            for place, (name, change) in enumerate(readers.items())
        ]
        names = list(readers)
        for values in zip(*columns, strict=True):
            number += 1
            yield Row(dict(zip(names, values, strict=True)), f"{file.name}, row", number)


def _convert_column(
    file: DataFile, column: pa.Array, name: str, before: int, change: Callable[[Any], Any] | None
) -> list[Any]:
    try:
        values = column.to_pylist()
    except Exception as error:  # the error depends on the type of the column
        unread = (place for place in range(len(column)) if not _is_readable(column, place))
        number = before + next(unread, 0) + 1
        cause = format_typed_line(error)
        raise DataError(
            f"{file.name}, row {number}: column {name!r} ({column.type}) cannot be read ({cause}); write it "
            "as another type, or delete it"
        ) from None
    return values if change is None else [change(value) for value in values]


def _is_readable(column: pa.Array, place: int) -> bool:
    try:
        column[place].as_py()
    except Exception:  # as above
        return False
    return True


def _find_wide_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of a column if its first values may suggest a narrower one, otherwise None."""
    if pa.types.is_decimal(kind):
        return (pa.decimal256 if kind.precision > 38 else pa.decimal128)(kind.precision, kind.scale)
    wide = (pa.types.is_timestamp, pa.types.is_time, pa.types.is_duration, pa.types.is_uint64)
    return kind if any(is_kind(kind) for is_kind in wide) else None


def _make_map_converter(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Return the function that converts maps, at any depth, to {key, value} records; None without maps."""
    if pa.types.is_map(kind):
        key, value = (
            _make_map_converter(kind.key_type) or _keep_value,
            _make_map_converter(kind.item_type) or _keep_value,
        )
        return lambda pairs: pairs and [{"key": key(one), "value": value(other)} for one, other in pairs]
    if pa.types.is_struct(kind):
        inside = {
            field.name: reader for field in kind if (reader := _make_map_converter(field.type)) is not None
        }
        return (
            (
                lambda record: (
                    record and {key: inside.get(key, _keep_value)(item) for key, item in record.items()}
                )
            )
            if inside
            else None
        )
    element = _make_map_converter(kind.value_type) if hasattr(kind, "value_type") else None
    return None if element is None else lambda items: items and [element(item) for item in items]


def _keep_value(value: Any) -> Any:
    return value
