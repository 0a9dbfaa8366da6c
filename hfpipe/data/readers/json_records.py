"""Reads JSON: arrays and mappings of records, one record per line, and SQuAD's nested files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hfpipe.data.readers.file_options import DataFile
from hfpipe.data.readers.squad import is_squad, read_squad
from hfpipe.data.readers.streams import open_text
from hfpipe.data.rows import Row, find_repeated
from hfpipe.errors import DataError

NAMED = frozenset({"text", "label", "labels", "question", "context", "prompt", "messages", "words", "tags"})
"""Keys that are column names, not row names."""
_LINE_ENDS = ("\n", "")


class RepeatedKeyError(ValueError):
    """An object has a repeated key, for which Python's json would keep only the last value."""


def _check_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise RepeatedKeyError(find_repeated(key for key, _ in pairs))
    return record


_DECODER = json.JSONDecoder(object_pairs_hook=_check_unique_keys)
_decode = _DECODER.decode
_scan = vars(_DECODER)["scan_once"]


def _decode_line(line: str) -> Any:
    """Decode a line like `_decode`, but faster if the line is exactly one object."""
    if line[:1] == "{":
        try:
            value, end = _scan(line, 0)
        except StopIteration:  # not JSON; `_decode` reports the cause
            return _decode(line)
        if line[end:] in _LINE_ENDS:
            return value
    return _decode(line)


def read_jsonl(file: DataFile) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object per line, or with a single array of objects."""
    origin = f"{file.name}, line"
    with open_text(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.isspace():
                continue
            if number == 1 and line.lstrip()[:1] == "[" and (rows := _read_array(file)) is not None:
                yield from rows
                return
            try:
                record = _decode_line(line)
            except (ValueError, RecursionError) as error:
                raise _make_broken_line_error(file, number, line, error) from None
            if not isinstance(record, dict):
                raise make_record_error(f"{origin} {number}", record)
            yield Row(record, origin, number, sparse=True)


def _read_array(file: DataFile) -> Iterator[Row] | None:
    """Return the rows of a file that is one array of objects, or None if it is not."""
    with open_text(file) as stream:
        try:
            data = _decode(stream.read())
        except RepeatedKeyError as error:
            raise _make_repeated_key_error(file.name, error) from None
        except (ValueError, RecursionError):
            return None
    if data != [] and not _is_records(data):
        return None
    file.note({"format": "json"})
    return _convert_records(data, file)


def _make_broken_line_error(file: DataFile, number: int, line: str, error: Exception) -> DataError:
    place = f"{file.name}, line {number}"
    if isinstance(error, RepeatedKeyError):
        return _make_repeated_key_error(place, error)
    if isinstance(error, RecursionError):
        return DataError(f"{place}: the JSON is nested too deeply; flatten it, or leave the row out")
    whole = line.strip() in ("{", "[")
    fix = "fix the line"
    if whole:
        fix = f"write {file.options.advise(format='json')} if the whole file is one JSON text"
    cause = str(error)
    if isinstance(error, json.JSONDecodeError):
        cause = f"{error.msg.removesuffix(' at')} at character {error.colno}"
    return DataError(f"{place}: broken JSON ({cause}); {fix}")


def _make_repeated_key_error(place: str, error: RepeatedKeyError) -> DataError:
    return DataError(f"{place}: the key {str(error)!r} occurs twice in one object; delete one of them")


def read_json(file: DataFile) -> Iterator[Row]:
    """Return the rows of a file that is one JSON value; the whole file is read into memory.

    Rows are an array of objects, a mapping whose keys become `id`, or the questions of a SQuAD file. `field`
    selects the part of the file that contains them.
    """
    data = _load(file)
    for part in _split_field(data, file.options.field):
        data = _select_part(data, part, file)
    return _convert_records(data, file)


def _convert_records(data: Any, file: DataFile) -> Iterator[Row]:
    """Yield the rows of decoded JSON. Raises DataError if it contains none."""
    name = file.name
    if is_squad(data):
        file.note({"format": "SQuAD"})
        yield from read_squad(data, name)
        return
    if not isinstance(data, (list, dict)):
        raise make_record_error(name, data)
    keyed = isinstance(data, dict)
    if isinstance(data, dict):
        _require_rows(data, file)
    for number, item in enumerate(data, 1):
        record = data[item] if keyed else item
        if not isinstance(record, dict):
            raise make_record_error(f"{name}, record {number}", record)
        yield Row({"id": item, **record} if keyed else record, f"{name}, record", number, sparse=True)


def _load(file: DataFile) -> Any:
    with open_text(file) as stream:
        try:
            return _decode(stream.read())
        except json.JSONDecodeError as error:
            raise DataError(
                f"{file.name}, line {error.lineno}: broken JSON ({error.msg}); fix it, or add "
                f"{file.options.advise(format='jsonl')} if each line is a record"
            ) from None
        except RepeatedKeyError as error:
            raise _make_repeated_key_error(file.name, error) from None
        except RecursionError:
            raise DataError(f"{file.name}: the JSON is nested too deeply; flatten it") from None
        except UnicodeError:
            raise
        except ValueError as error:
            raise DataError(f"{file.name}: broken JSON ({error}); fix it") from None


def _split_field(data: Any, field: str | None) -> list[str]:
    if field is None:
        return []
    return [field] if isinstance(data, dict) and field in data else field.split(".")


def _select_part(data: Any, part: str, file: DataFile) -> Any:
    if not isinstance(data, dict) or part not in data:
        keys = ", ".join(map(repr, list(data)[:10])) if isinstance(data, dict) else type(data).__name__
        stated = file.options.advise(field=file.options.field)
        raise DataError(f"{file.name}: there is no {part!r}, which {stated} names; there is {keys}")
    return data[part]


def _require_rows(data: Mapping[str, Any], file: DataFile) -> None:
    """Raise DataError for a mapping whose values are not rows: columns, or rows under one of its keys."""
    records = "write it again with `to_json(..., orient='records')`"
    if _is_split(data):
        raise DataError(f"{file.name}: is pandas' orient='split', not a list of records; {records}")
    if _is_by_column(data):
        raise DataError(
            f"{file.name}: is written column by column, as pandas' to_json does by default; {records}"
        )
    lists = [key for key, value in data.items() if _is_records(value)]
    if lists and not all(isinstance(value, dict) for value in data.values()):
        above = f"{file.options.field}." if file.options.field else ""
        raise DataError(
            f"{file.name}: its records are under {' and '.join(map(repr, lists))}; add "
            f"{file.options.advise(field=above + lists[0])}"
        )


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_split(data: Mapping[str, Any]) -> bool:
    return {"columns", "data"} <= data.keys() <= {"columns", "data", "index"}


def _is_by_column(data: Mapping[str, Any]) -> bool:
    """Return whether the keys are columns: lists, mappings by row number, usual names, or few long values."""
    columns = list(data.values())
    if columns and all(isinstance(column, list) for column in columns) and not all(map(_is_records, columns)):
        return len({len(column) for column in columns}) == 1
    if not columns or not all(isinstance(column, dict) and column for column in columns):
        return False
    rows = columns[0].keys()
    if any(column.keys() != rows for column in columns):
        return False
    if all(row.lstrip("-").isdigit() for row in rows):
        return True
    alike = all(len({type(value) for value in column.values()}) == 1 for column in columns)
    return alike and not NAMED & rows and (len(rows) > len(columns) or bool(NAMED & data.keys()))


def make_record_error(place: str, value: Any) -> DataError:
    """Return the error for a JSON value that is not an object."""
    shown: str | Sequence[str] = json.dumps(value)[:40]
    return DataError(f'{place}: is {shown}, not an object; write {{"text": …}}')
