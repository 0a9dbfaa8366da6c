"""Writes rows to disk as they are produced, and saves them as the data set for later stages."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hfpipe.data.labels.labels import Label
from hfpipe.data.rows import Row
from hfpipe.encoding.nested import JSON, holds_objects, keeps_keys, to_json
from hfpipe.encoding.origins import drop_origins, make_origin_columns, write_origins
from hfpipe.errors import DataError
from hfpipe.library_output import silence_libraries

ROWS = 1000
"""Maximum number of rows per record batch."""
UNFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)
"""Exceptions of Arrow for values that it cannot store, or not with one type."""
CHARACTERS = 16_000_000
"""Maximum number of characters per record batch, so that long documents do not fill the memory."""


def infer_schema(
    head: Sequence[Row],
    texts: Sequence[str],
    labels: Sequence[Label],
    known: Mapping[str, pa.DataType],
) -> dict[str, pa.DataType | None]:
    """Return the Arrow type of each column, from the source or inferred from the first rows.

    The type of a label column is None, since it is known only later. Raises DataError for a column whose name
    cannot be written.
    """
    for name in head[0].values:
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise DataError(f"{head[0].place}: the column name {name!r} holds half a character; rename it")
        if "\0" in name:  # Arrow truncates the name there
            raise DataError(f"{head[0].place}: the column name {name!r:.40} holds a zero byte; rename it")
    fixed: dict[str, pa.DataType | None] = {"id": pa.string()}
    fixed |= {name: kind for name in head[0].values if (kind := _infer_nested_type(head, name)) is not None}
    fixed |= {name: _infer_text_type(head, name) for name in texts if name not in fixed}
    fixed |= {label.column: None for label in labels}
    rest = [name for name in head[0].values if name not in fixed]
    types = {name: known.get(name) or _infer([row.values[name] for row in head], name, head) for name in rest}
    return {"id": fixed["id"]} | {name: (fixed | types)[name] for name in head[0].values}


def _infer_text_type(head: Sequence[Row], name: str) -> pa.DataType:
    lists = any(isinstance(row.values[name], (list, tuple)) for row in head)
    return pa.list_(pa.string()) if lists else pa.string()


def _infer_nested_type(head: Sequence[Row], name: str) -> pa.DataType | None:
    """Return JSON for a column of objects; if JSON cannot represent them, Arrow's own type."""
    if not any(holds_objects(row.values[name]) for row in head):
        return None
    for row in head:
        try:
            to_json(row.values[name])
        except TypeError:
            return _infer([row.values[name] for row in head], name, head)
        except ValueError as error:
            raise _make_json_error(row, name, error) from None
    return JSON


def _make_json_error(row: Row, name: str, error: ValueError | TypeError) -> DataError:
    if isinstance(error, UnicodeEncodeError):
        return _make_surrogate_error(row, name)
    return DataError(
        f"{row.place}: {name!r} holds {error}, which cannot be kept inside an object; write it as a string, "
        "or leave the column out with `columns`"
    )


def _make_surrogate_error(row: Row, name: str) -> DataError:
    return DataError(
        f"{row.place}: {name!r} holds half a character (a lone surrogate); add `clean: [unicode]` "
        "if it is text, or leave it out with `columns`"
    )


def _infer(values: list[Any], name: str, rows: Sequence[Row]) -> pa.DataType:
    try:
        kind = pa.array(values).type
    except UNFIT:
        kind = _find_unsigned_type(values)
        if kind is None:
            raise _make_misfit_error(rows, name, None) from None
    return pa.string() if pa.types.is_null(kind) else kind


def _find_unsigned_type(values: list[Any]) -> pa.DataType | None:
    """Return uint64 for non-negative integers of which some need all 64 bits, None for other values."""
    there = [value for value in values if value is not None]
    whole = all(type(value) is int and 0 <= value < 2**64 for value in there)
    return pa.uint64() if whole else None


def _make_misfit_error(rows: Sequence[Row], name: str, kind: pa.DataType | None) -> DataError:
    """Return the error for the row whose value does not have the column's type, or the most frequent type."""
    kind = kind or _find_usual_type([row.values[name] for row in rows])
    for row in rows:
        value = row.values[name]
        fix = f"use one type in all rows, or leave {name!r} out with `columns`"
        try:
            pa.array([value], kind)
        except UnicodeEncodeError:
            return _make_surrogate_error(row, name)
        except OverflowError:
            return DataError(
                f"{row.place}: {name!r} is {value!r:.40}, too large for {kind or 'int64'}; {fix}"
            )
        except UNFIT:
            return DataError(f"{row.place}: {name!r} is {value!r:.40}, but other rows hold {kind}; {fix}")
    return DataError(f"column {name!r} mixes types; use one type in all rows, or leave it out with `columns`")


def _find_usual_type(values: Sequence[Any]) -> pa.DataType | None:
    """Return the most frequent type of the values that are not null; the first one of a tie."""
    found: Counter[pa.DataType] = Counter()
    for value in values:
        with suppress(*UNFIT):
            found[pa.array([value]).type] += value is not None
    return found.most_common(1)[0][0] if found.total() else None


class Writer:
    """Appends rows to one Arrow file per split in a temporary folder; finally saves them as a data set."""

    def __init__(self, scratch: Path, types: dict[str, pa.DataType | None], labels: Sequence[Label]) -> None:
        self._scratch = scratch
        self._types = types
        self._labels = {label.column: label for label in labels}
        self._open: dict[str, pa.RecordBatchStreamWriter] = {}
        self._waiting: dict[str, list[Row]] = {}
        self._characters = 0
        self._lengths: dict[str, array[int]] = {}
        self._stack = ExitStack()
        scratch.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, row: Row, split: str) -> None:
        """Add a row whose values are final, except for labels, which have provisional ids."""
        if split not in self._waiting:
            self._waiting[split], self._lengths[split] = [], array("q")
        waiting, characters = self._waiting[split], row.characters
        waiting.append(row)
        self._characters += characters
        self._lengths[split].append(characters)
        if len(waiting) >= ROWS:
            self._flush(split)
        elif self._characters >= CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        for split in self._waiting:
            self._flush(split)
        self._characters = 0

    def _flush(self, split: str) -> None:
        rows, self._waiting[split] = self._waiting[split], []
        if not rows:
            return
        types = {name: kind or self._labels[name].arrow for name, kind in self._types.items()}
        origins = make_origin_columns([row.origin for row in rows], [row.number for row in rows])
        columns = {name: _make_array(rows, name, kind) for name, kind in types.items()} | origins
        batch = pa.record_batch(list(columns.values()), names=list(columns))
        if split not in self._open:
            sink = self._stack.enter_context(pa.OSFile(self._get_path(split), "wb"))
            self._open[split] = self._stack.enter_context(pa.ipc.new_stream(sink, batch.schema))
        self._open[split].write_batch(batch)

    def count_rows(self) -> dict[str, int]:
        """Close the temporary files, and return split → number of rows."""
        self.flush()
        self._stack.close()
        return {split: len(self._lengths[split]) for split in self._open}

    def get_characters(self, split: str) -> np.ndarray:
        """Return the number of characters of each row of a split, int64, shape (rows,)."""
        return np.frombuffer(self._lengths[split], np.int64)

    def read_batches(self, split: str) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a split's closed temporary file, memory-mapped."""
        with self._map(split) as source, pa.ipc.open_stream(source) as stream:
            yield from stream

    def keep(self, kept: Mapping[str, np.ndarray]) -> None:
        """Rewrite the closed temporary files with the rows to keep: split → bool, shape (rows,)."""
        for split, rows in kept.items():
            start, again = 0, self._scratch / f"{split}.kept"
            with ExitStack() as files:
                old = files.enter_context(pa.ipc.open_stream(files.enter_context(self._map(split))))
                sink = files.enter_context(pa.OSFile(str(again), "wb"))
                new = files.enter_context(pa.ipc.new_stream(sink, old.schema))
                for batch in old:
                    new.write_batch(batch.filter(pa.array(rows[start : start + batch.num_rows])))
                    start += batch.num_rows
            again.replace(self._get_path(split))
            if not rows.any():
                del self._open[split]

    def _get_path(self, split: str) -> str:
        return str(self._scratch / f"{split}.arrow")

    def _map(self, split: str) -> pa.MemoryMappedFile:
        return pa.memory_map(self._get_path(split))

    def save(self, folder: Path) -> datasets.DatasetDict:
        """Close the temporary files, replace class ids by final ids and save all splits to `folder`."""
        self.count_rows()
        tables = {split: self._read_table(split) for split in sorted(self._open, key=_order_splits)}
        saved = {split: self._finalize(split, table) for split, table in tables.items()}
        with silence_libraries():
            datasets.DatasetDict(saved).save_to_disk(str(folder))
        for split, table in tables.items():
            write_origins(table, folder / split)
        return datasets.DatasetDict(saved)

    def _read_table(self, split: str) -> pa.Table:
        return pa.ipc.open_stream(self._map(split)).read_all()

    def _finalize(self, split: str, table: pa.Table) -> datasets.Dataset:
        # Memory-mapped: only the label columns are rebuilt.
        table = drop_origins(table)
        features = datasets.Features.from_arrow_schema(table.schema)
        for column, label in self._labels.items():
            table = table.set_column(
                table.schema.get_field_index(column), column, label.replace_ids(table[column])
            )
            features[column] = label.feature
        # Datasets would pickle the whole table to compute its fingerprint.
        name = sha256(f"{split} {features}".encode()).hexdigest()[:16]
        info = datasets.DatasetInfo(features=features)
        return datasets.Dataset(
            table.cast(features.arrow_schema), info, datasets.NamedSplit(split), fingerprint=name
        )


def _order_splits(split: str) -> tuple[int, str]:
    usual = ("train", "validation", "test")
    return (usual.index(split) if split in usual else len(usual), split)


def _make_array(rows: Sequence[Row], name: str, kind: pa.DataType) -> pa.Array:
    if kind == JSON:
        return _make_json_array(rows, name)
    values = [row.values[name] for row in rows]
    try:
        array = pa.array(values, kind)
    except UNFIT:
        raise _make_misfit_error(rows, name, kind) from None
    if pa.types.is_nested(kind):
        for row, value in zip(rows, values, strict=True):
            if not keeps_keys(value, kind):
                raise DataError(
                    f"{row.place}: the objects of {name!r} have different keys from those before; use the "
                    "same keys in all rows, or leave the column out with `columns`"
                )
    return array


def _make_json_array(rows: Sequence[Row], name: str) -> pa.Array:
    texts: list[str | None] = []
    for row in rows:
        try:
            texts.append(to_json(row.values[name]))
        except (TypeError, ValueError) as error:
            raise _make_json_error(row, name, error) from None
    return pa.array(texts, JSON)
