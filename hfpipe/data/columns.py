"""Selects and renames the columns of a source, and collects the texts of each row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from hfpipe.data.column_types import is_conversation, is_words
from hfpipe.data.conversations import CALLS, has_calls, is_message
from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Row
from hfpipe.data.write import CHARACTERS, ROWS
from hfpipe.errors import DataError
from hfpipe.recipe.messages import join_names

MISSING = "missing text"
"""Name in the ledger for rows whose text is null."""
_ABSENT = object()
_STRINGS = {str}


def select(rows: Iterable[Row], wanted: Mapping[str, str], filled: Counter[str]) -> Iterator[Row]:
    """Yield rows with the wanted columns only (wanted → source), or with all columns if none are named.

    `a.b` selects a key of a nested object. If a JSON row lacks a column that some of the first rows have, the
    value is null, and `filled` counts it.
    Raises DataError for a missing column and, if no columns are named, for a row whose columns differ from
    those of the first rows.
    """
    rest = iter(rows)
    head = list(take_first_rows(rest))
    rows = chain(head, rest)
    return _select_columns(rows, wanted, head, filled) if wanted else _check_equal_columns(rows, head, filled)


def take_first_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the first rows, which determine the columns and their types; fewer rows if they are long."""
    characters = 0
    for row in islice(rows, ROWS):
        yield row
        characters += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if characters > CHARACTERS:
            return


def _select_columns(
    rows: Iterable[Row], wanted: Mapping[str, str], head: Sequence[Row], filled: Counter[str]
) -> Iterator[Row]:
    pairs = list(wanted.items())
    there = {
        name for name in wanted.values() if any(_look_up(row.values, name) is not _ABSENT for row in head)
    }
    for row in rows:
        values = row.values
        try:
            row.values = {ours: values[theirs] for ours, theirs in pairs}
        except KeyError:
            row.values = {ours: _look_up(values, theirs) for ours, theirs in pairs}
            for ours, theirs in pairs:
                if row.values[ours] is _ABSENT:
                    _require_column(row, theirs, values, there)
                    row.values[ours] = None
                    filled[ours] += 1
        yield row


def _look_up(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name, _ABSENT)
    if value is not _ABSENT:
        return value
    value = values
    for part in name.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _require_column(row: Row, name: str, values: Mapping[str, Any], there: Container[str]) -> None:
    if not row.sparse or name not in there:
        raise DataError(
            f"{row.place}: there is no column {name!r}; the columns are {join_names(list(values))}; "
            "fix `columns`"
        )


def _check_equal_columns(rows: Iterable[Row], head: Sequence[Row], filled: Counter[str]) -> Iterator[Row]:
    if not head:
        return
    columns = dict.fromkeys(name for row in head if row is head[0] or row.sparse for name in row.values)
    names, place = columns.keys(), head[0].place
    for row in rows:
        if row.values.keys() != names:
            if not row.sparse or row.values.keys() - names:
                raise DataError(
                    f"{row.place}: the columns are {join_names(list(row.values))}, but {place} has "
                    f"{join_names(list(columns))}; select columns with `columns`"
                )
            filled.update(name for name in columns if name not in row.values)
            row.values = {name: row.values.get(name) for name in columns}
        yield row


def take_texts(rows: Iterable[Row], columns: Sequence[str], ledger: Ledger) -> Iterator[Row]:
    """Set `row.texts` from the text columns, and enter the rows in the ledger.

    Rows without text are dropped: all text columns are null, or a message has no content and no tool calls.
    If only some of the text columns are null, the row is kept, and null counts as an empty text.
    """
    for row in rows:
        values = [row.values[name] for name in columns]
        if {*map(type, values)} == _STRINGS:  # the usual case, five times as fast as the general one
            row.texts, complete = values, True
        else:
            complete = _take_nested(row, columns)
        ledger.enter(row.characters)
        if complete:
            yield row
        else:
            ledger.drop(MISSING, row.characters)


def _take_nested(row: Row, columns: Sequence[str]) -> bool:
    """Set the texts and the tool calls of a row; return whether no text is missing."""
    found = {name: _read_texts(row, name) for name in columns}
    row.texts = [text or "" for texts in found.values() for text in texts]
    row.calls = _encode_calls(row, columns)
    there = [texts for name, texts in found.items() if row.values[name] is not None]
    return bool(there) and not any(None in texts for texts in there)


def _read_texts(row: Row, name: str) -> list[str | None]:
    """Return the texts of a column; None for a missing text, "" for a message that only calls tools."""
    value = row.values[name]
    if value is None or isinstance(value, str):
        return [value]
    if is_words(value):
        return list(value)
    if is_conversation(value) and all(map(is_message, value)):
        return [_read_content(message) for message in value]
    raise DataError(
        f"{row.place}: {name!r} is {value!r:.40}, not a string; write it in quotes, or name the "
        "text columns with `text`"
    )


def _read_content(message: Mapping[str, Any]) -> str | None:
    content: str | None = message.get("content")
    return "" if content is None and has_calls(message) else content


def _encode_calls(row: Row, columns: Sequence[str]) -> str:
    """Return the tool calls in the conversations of a row as JSON; an empty string if there are none."""
    found = [
        [message.get(key) for key in CALLS]
        for name in columns
        if is_conversation(row.values[name])
        for message in row.values[name]
        if has_calls(message)
    ]
    return json.dumps(found, default=str) if found else ""
