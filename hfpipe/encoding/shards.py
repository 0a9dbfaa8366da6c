"""Shards of an encoded split: Arrow files written in sequence, so that an interrupted encoding resumes."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from itertools import count, takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from hfpipe.errors import get_first_line
from hfpipe.report import FileDigest
from hfpipe.store.files import sync_folder
from hfpipe.store.manifest import describe_damage, describe_size
from hfpipe.store.sealed import read_sealed, write_sealed
from hfpipe.tokenization.ragged import Ragged

log = logging.getLogger(__name__)

TOKENS = 1 << 24
"""Number of tokens at which a shard is closed; 64 MB, a few seconds of work on two cores."""
TYPES = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8()), "row": pa.int64()}
"""Column → its type on disk; other types are inferred from the first batch, with empty lists as numbers."""


@dataclass
class State:
    """Progress of an encoding at the end of a shard."""

    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    examples: int = 0
    rest: list[int] = field(default_factory=list)
    """Ids at the beginning of the next packed example."""

    def to_ledger(self) -> dict[str, int]:
        """Return the counts of rows and tokens so far."""
        return {name: value for name, value in asdict(self).items() if name != "rest"}


@dataclass(frozen=True)
class Batch:
    """Encoded examples, and the counts of their rows."""

    columns: dict[str, Any]
    """A `Ragged`, list or array with one entry per example; `input_ids` is always present."""
    rows: int
    truncated: int = 0
    rest: Iterable[int] = ()
    """Ids of these rows that belong to later examples."""


class Shards:
    """The files of one split: `NAME-00000.arrow`, `NAME-00001.arrow`, …, and its ledger `NAME.json`.

    A shard is complete if the state at its end exists, which is written after it. The last shard, which is
    not full, is complete if the ledger exists. Both contain digests, computed while the shards are written.
    The bytes of all shards depend only on the batches, not on where an encoding was interrupted.
    """

    def __init__(self, path: Path, tokens: int = TOKENS) -> None:
        self._path = path
        self._tokens = tokens
        self._recorded: dict[str, FileDigest] = {}

    def list_files(self) -> list[Path]:
        """Return the existing shards, in order."""
        return list(takewhile(Path.exists, map(self._get_path, count())))

    def read_ledger(self, *, reads_all: bool) -> dict[str, int] | None:
        """Return the ledger of a finished encoding; None if the split must be encoded, or encoded again.

        Without `reads_all` only the sizes of its files are compared.
        """
        try:
            return self._read_ledger(reads_all=reads_all)
        except FileNotFoundError:
            return None
        except _DamageError as damage:
            log.warning("%s; encoding it again", damage)
            return None

    def resume(self) -> tuple[int, State]:
        """Return the number of finished shards, and the state at the end of the last one; reads them."""
        number, state = 0, State()
        while (found := self._read_finished(self._get_path(number))) is not None:
            number, state = number + 1, found
        return number, state

    def write(self, batches: Iterator[Batch], number: int, state: State) -> dict[str, int]:
        """Write all batches to shards from `number` on; return the ledger.

        `number` and `state` are the results of `resume`.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._ledger_file.unlink(missing_ok=True)
        for left_over in self._list_shards_from(number):
            left_over.unlink()
        while self._write_one(batches, self._get_path(number), state):
            file = self._get_path(number)
            finished = {**asdict(state), "file": self._recorded[file.name].model_dump()}
            write_sealed(file.with_suffix(".json"), json.dumps(finished))
            number += 1
        files = {name: digest.model_dump() for name, digest in self._recorded.items()}
        write_sealed(self._ledger_file, json.dumps({**state.to_ledger(), "files": files}))
        return state.to_ledger()

    def find_damage(self) -> Iterator[str]:
        """Yield each finished file that differs from what was written, and the reason; reads all files."""
        checks: list[Callable[[], Any]] = [
            partial(self._read_ledger, reads_all=True),
            *(partial(self._read_state, file) for file in self._list_finished()),
        ]
        found = set()
        for check in checks:
            try:
                check()
            except FileNotFoundError:
                continue
            except _DamageError as damage:
                found.add(str(damage))
        yield from sorted(found)

    def _list_finished(self) -> list[Path]:
        """Return the shards whose state exists, whether or not they exist themselves."""
        return sorted(
            {path.with_suffix(".arrow") for path in self._list_shards_from(0) if path.suffix == ".json"}
        )

    def _read_finished(self, shard: Path) -> State | None:
        """Return the state at the end of a shard; None if it is unfinished or damaged."""
        try:
            return self._read_state(shard)
        except FileNotFoundError:
            return None
        except _DamageError as damage:
            log.warning("%s; encoding it again", damage)
            return None

    def _read_ledger(self, *, reads_all: bool) -> dict[str, int]:
        """Return the ledger.

        Raises FileNotFoundError when it does not exist, _DamageError when it or a shard is damaged.
        """
        with _translate_errors(self._ledger_file):
            found = json.loads(read_sealed(self._ledger_file))
            digests = {name: FileDigest.model_validate(each) for name, each in found.pop("files").items()}
            found = State(**found).to_ledger()  # an unknown key means that the seal is damaged
        for name, digest in digests.items():
            shard = self._path.with_name(name)
            why = describe_damage(shard, digest) if reads_all else describe_size(shard, digest.size)
            if why is not None:
                raise _DamageError(f"{shard}: {why}")
        return found

    def _read_state(self, shard: Path) -> State:
        """Return the state at the end of a shard, and record its digest; raises the errors of `_ledger`."""
        file = shard.with_suffix(".json")
        with _translate_errors(file):
            found = json.loads(read_sealed(file))
            digest = FileDigest.model_validate(found.pop("file"))
            state = State(**found)
        if (why := describe_damage(shard, digest)) is not None:
            raise _DamageError(f"{shard}: {why}")
        self._recorded[shard.name] = digest
        return state

    def _write_one(self, batches: Iterator[Batch], file: Path, state: State) -> bool:
        """Write one shard; return whether it was closed because it is full."""
        first = next(batches, None)
        if first is None:
            return False
        full, table = state.tokens + self._tokens, _make_table(first.columns)
        schema = table.schema if file == self._get_path(0) else _read_schema(self._get_path(0))
        with file.open("wb") as opened:
            sink = _DigestedFile(opened)
            with pa.ipc.new_stream(sink, schema) as stream:
                stream.write_table(table)
                _add(state, first)
                while state.tokens < full and (batch := next(batches, None)) is not None:
                    stream.write_table(_make_table(batch.columns))
                    _add(state, batch)
            opened.flush()
            os.fsync(opened.fileno())
        sync_folder(file.parent)
        self._recorded[file.name] = sink.digest()
        return state.tokens >= full

    @property
    def _ledger_file(self) -> Path:
        return self._path.with_suffix(".json")

    def _get_path(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.stem}-{number:05}.arrow")

    def _list_shards_from(self, number: int) -> Iterator[Path]:
        """Yield the shards from a number on, and their states."""
        for path in self._path.parent.glob(f"{self._path.stem}-*"):
            found = re.fullmatch(r"-([0-9]{5,})\.(arrow|json)", path.name.removeprefix(self._path.stem))
            if found is not None and int(found[1]) >= number:
                yield path


class _DamageError(Exception):
    """A file differs from what was written; the message names the file and the reason."""


@contextmanager
def _translate_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _DamageError(f"{file}: cannot be read ({get_first_line(error)})") from error


class _DigestedFile:
    """A file that computes the digest of its content; implements only what Arrow requires of a file."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size, self._sha256 = file, 0, sha256()

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        written = self._file.write(data)
        self._size += written
        return written

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> FileDigest:
        return FileDigest(size=self._size, sha256=self._sha256.hexdigest())


def _add(state: State, batch: Batch) -> None:
    ids = batch.columns["input_ids"]
    state.rows += batch.rows
    state.truncated += batch.truncated
    state.tokens += len(ids.values) if isinstance(ids, Ragged) else sum(map(len, ids))
    state.examples += len(ids)
    state.rest = [int(each) for each in batch.rest]


def _read_schema(file: Path) -> pa.Schema:
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        return stream.schema


def _make_table(columns: dict[str, Any]) -> pa.Table:
    table = pa.table({name: _make_array(column, TYPES.get(name)) for name, column in columns.items()})
    return table.cast(pa.schema([field.with_type(_resolve_null_type(field.type)) for field in table.schema]))


def _make_array(column: Any, kind: pa.DataType | None) -> pa.Array:
    if not isinstance(column, Ragged):
        lists = kind is not None and pa.types.is_list(kind)
        if not lists or not any(isinstance(each, np.ndarray) for each in column):
            return pa.array(column, kind)
        column = Ragged.from_rows(column)
    values = pa.array(column.values, kind.value_type if kind is not None else None)
    return pa.ListArray.from_arrays(pa.array(column.offsets, pa.int32()), values)


def _resolve_null_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column whose lists may all be empty in one batch but not in another."""
    if pa.types.is_list(kind):
        return pa.list_(_resolve_null_type(kind.value_type))
    return pa.int64() if pa.types.is_null(kind) else kind
