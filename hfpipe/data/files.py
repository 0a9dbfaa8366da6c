"""Rows of local files: text formats, plain or compressed, and Arrow's own."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from hfpipe.data.rows import Row, listed
from hfpipe.data.streams import COMPRESSION, text_stream
from hfpipe.errors import DataError

Reader = Callable[[TextIO, str], Iterator[Row]]


def read(path: Path, name: str, format: str | None, encoding: str) -> Iterator[Row]:  # noqa: A002
    """Yield the rows of one file; `name` is what messages call it.

    Raises DataError for a file that is missing, empty, cut off, wrongly encoded or of unknown format.
    """
    kind = format or _format(path, name)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "is not there"
        raise DataError(f"{name}: {what}; name a file, or a pattern such as {name}/*.jsonl")
    rows = _arrow(path, name, kind) if kind in ("parquet", "arrow") else _text(path, name, kind, encoding)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{name}: is empty; take it out, or mend what wrote it")
    return chain([first], rows)


def _format(path: Path, name: str) -> str:
    ending = Path(path.stem if path.suffix in COMPRESSION else path.name).suffix[1:].lower()
    if ending not in {*READERS, "parquet", "arrow"}:
        raise DataError(
            f"{name}: its ending tells no format; add `format:` txt, jsonl, json, csv, tsv, parquet or arrow"
        )
    return ending


def _text(path: Path, name: str, kind: str, encoding: str) -> Iterator[Row]:
    with text_stream(path, name, encoding, newline="" if kind in ("csv", "tsv") else None) as file:
        yield from READERS[kind](file, name)


def _lines(file: TextIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        yield Row({"text": line.rstrip("\n")}, f"{name}, line", number)


def _jsonl(file: TextIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{name}, line {number}: broken JSON ({error}); mend the line") from None
        if not isinstance(record, dict):
            raise _no_record(f"{name}, line {number}", record)
        yield Row(record, f"{name}, line", number)


def _json(file: TextIO, name: str) -> Iterator[Row]:
    """Read an array of records, or a mapping whose keys become `id`; the whole file is held in memory."""
    try:
        data = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{name}, line {error.lineno}: broken JSON ({error.msg}); mend it, or add "
            "`format: jsonl` if each line is a record"
        ) from None
    if not isinstance(data, (list, dict)):
        raise _no_record(name, data)
    keyed = isinstance(data, dict)
    for number, item in enumerate(data, 1):
        record = data[item] if keyed else item
        if not isinstance(record, dict):
            raise _no_record(f"{name}, record {number}", record)
        yield Row({"id": item, **record} if keyed else record, f"{name}, record", number)


def _no_record(place: str, value: Any) -> DataError:
    return DataError(f'{place}: is {json.dumps(value)[:40]}, not an object; write {{"text": …}}')


def _csv(file: TextIO, name: str, **dialect: Any) -> Iterator[Row]:
    limit = csv.field_size_limit(sys.maxsize)  # a document may be longer than csv's 128 KiB
    try:
        yield from _fields(csv.reader(file, strict=True, **dialect), name)
    finally:
        csv.field_size_limit(limit)


def _fields(reader: Any, name: str) -> Iterator[Row]:
    try:
        header: list[str] = next(reader, [])
        if len(set(header)) < len(header):
            twice = next(field for field in header if header.count(field) > 1)
            raise DataError(f"{name}, line 1: the header has {twice!r} twice; rename one")
        for fields in reader:
            if fields and len(fields) != len(header):
                raise DataError(
                    f"{name}, line {reader.line_num}: {len(fields)} fields, but the header has {len(header)} "
                    f"({listed(header)}); quote fields that hold the separator"
                )
            if fields:
                yield Row(dict(zip(header, fields, strict=True)), f"{name}, line", reader.line_num)
    except csv.Error as error:
        raise DataError(f"{name}, line {reader.line_num}: {error}; mend the quotes") from None


def _tsv(file: TextIO, name: str) -> Iterator[Row]:
    # As IANA's text/tab-separated-values, and GLUE's files: a quote is a character like any other.
    yield from _csv(file, name, delimiter="\t", quoting=csv.QUOTE_NONE)


READERS: dict[str, Reader] = {"txt": _lines, "jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _tsv}


def _arrow(path: Path, name: str, kind: str) -> Iterator[Row]:
    number = 0
    try:
        for batch in _batches(path, kind):
            for record in batch.to_pylist():
                number += 1
                yield Row(record, f"{name}, row", number)
    except (pa.ArrowInvalid, OSError) as error:
        cause = str(error).partition("\n")[0]
        raise DataError(f"{name}: cannot be read as {kind} ({cause}); copy or download it again") from None


def _batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=1000)
        return
    with pa.memory_map(str(path)) as source:
        try:
            stream = pa.ipc.open_stream(source)
        except pa.ArrowInvalid:
            source.seek(0)
            feather = pa.ipc.open_file(source)
            yield from (feather.get_batch(number) for number in range(feather.num_record_batches))
        else:
            yield from stream
