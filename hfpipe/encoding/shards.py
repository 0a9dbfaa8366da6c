"""Shards of an encoded split: Arrow files written one after another, so that a killed encoding goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hfpipe.store.store import write_whole
from hfpipe.tokenization.ragged import Ragged

TOKENS = 1 << 24
"""Tokens from which on a shard is closed; 64 MB, some seconds of work on two cores."""
TYPES = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8()), "row": pa.int64()}
"""Column → how it lies on disk; Arrow infers the others from their first batch, empty lists as of numbers."""


@dataclass
class State:
    """How far an encoding has come at the end of a shard."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    examples: int = 0
    rest: list[int] = field(default_factory=list)
    """Ids that the next packed example begins with."""

    def ledger(self) -> dict[str, int]:
        """Return what became of the rows and tokens so far."""
        return {name: value for name, value in asdict(self).items() if name != "rest"}


@dataclass(frozen=True)
class Batch:
    """Some encoded examples, and the rows they are made of."""

    columns: dict[str, Any]
    """A `Ragged`, or else a list or array with one entry an example; `input_ids` is always there."""
    rows: int
    truncated: int = 0
    rest: Iterable[int] = ()
    """Ids of these rows that belong to the next examples."""


class Shards:
    """The files of one split: `NAME-00000.arrow`, `NAME-00001.arrow`, …, each with its state at the end.

    A shard counts once its state is there, which is written after it. The bytes of all shards depend on the
    batches alone, not on where an encoding was killed.
    """

    def __init__(self, path: Path, tokens: int = TOKENS) -> None:
        self._path = path
        self._tokens = tokens

    def files(self) -> list[Path]:
        """Return the shards that are there, in order."""
        return list(takewhile(Path.exists, map(self._file, count())))

    def resume(self) -> tuple[int, State]:
        """Return how many shards are finished, and the state at the end of the last one."""
        number, state = 0, State()
        while (file := self._file(number).with_suffix(".json")).exists():
            number, state = number + 1, State(**json.loads(file.read_text(encoding="utf-8")))
        return number, state

    def write(self, batches: Iterator[Batch], number: int, state: State) -> State:
        """Write all batches into shards from `number` on; return the state at the end."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in self.files()[number:]:
            left_over.unlink()
        while self._write_one(batches, self._file(number), state):
            write_whole(self._file(number).with_suffix(".json"), json.dumps(asdict(state)))
            number += 1
        return state

    def _write_one(self, batches: Iterator[Batch], file: Path, state: State) -> bool:
        """Write one shard; return whether it was closed because it is full."""
        first = next(batches, None)
        if first is None:
            return False
        full, table = state.tokens + self._tokens, _table(first.columns)
        schema = table.schema if file == self._file(0) else _schema(self._file(0))
        with file.open("wb") as sink:
            with pa.ipc.new_stream(sink, schema) as stream:
                stream.write_table(table)
                _add(state, first)
                while state.tokens < full and (batch := next(batches, None)) is not None:
                    stream.write_table(_table(batch.columns))
                    _add(state, batch)
            sink.flush()
            os.fsync(sink.fileno())
        return state.tokens >= full

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}-{number:05}.arrow")


def _add(state: State, batch: Batch) -> None:
    ids = batch.columns["input_ids"]
    state.rows += batch.rows
    state.truncated += batch.truncated
    state.tokens += len(ids.values) if isinstance(ids, Ragged) else sum(map(len, ids))
    state.examples += len(ids)
    state.rest = [int(each) for each in batch.rest]


def _schema(file: Path) -> pa.Schema:
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        return stream.schema


def _table(columns: dict[str, Any]) -> pa.Table:
    table = pa.table({name: _array(column, TYPES.get(name)) for name, column in columns.items()})
    return table.cast(pa.schema([field.with_type(_told(field.type)) for field in table.schema]))


def _array(column: Any, kind: pa.DataType | None) -> pa.Array:
    if not isinstance(column, Ragged):
        lists = kind is not None and pa.types.is_list(kind)
        if not lists or not any(isinstance(each, np.ndarray) for each in column):
            return pa.array(column, kind)
        column = Ragged.from_rows(column)
    values = pa.array(column.values, kind.value_type if kind is not None else None)
    return pa.ListArray.from_arrays(pa.array(column.offsets, pa.int32()), values)


def _told(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column whose lists may all be empty in one batch and not in another."""
    if pa.types.is_list(kind):
        return pa.list_(_told(kind.value_type))
    return pa.int64() if pa.types.is_null(kind) else kind
