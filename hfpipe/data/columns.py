"""Columns: which of the source's become which of ours, and which of them are text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from hfpipe.data.ledger import Ledger
from hfpipe.data.rows import Row, listed
from hfpipe.data.write import CHARACTERS, ROWS
from hfpipe.errors import DataError

MISSING = "missing text"
"""The ledger's word for rows whose text is null."""
_ABSENT = object()


def select(rows: Iterable[Row], wanted: Mapping[str, str], filled: Counter[str]) -> Iterator[Row]:
    """Yield rows with the wanted columns only (wanted → source), or all columns when none are named.

    `a.b` reaches into nested objects. A column that a row of JSON lacks and some of the first rows have is
    null there, which `filled` counts.
    Raises DataError for a column that is not there, and, when no columns are named, for a row whose columns
    differ from those of the first rows.
    """
    rest = iter(rows)
    head = list(first_rows(rest))
    rows = chain(head, rest)
    return _named(rows, wanted, head, filled) if wanted else _alike(rows, head, filled)


def first_rows(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield the first rows, which tell what columns there are and hold; fewer where they are long."""
    characters = 0
    for row in islice(rows, ROWS):
        yield row
        characters += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if characters > CHARACTERS:
            return


def _named(
    rows: Iterable[Row], wanted: Mapping[str, str], head: Sequence[Row], filled: Counter[str]
) -> Iterator[Row]:
    pairs = list(wanted.items())
    there = {name for name in wanted.values() if any(_reach(row.values, name) is not _ABSENT for row in head)}
    for row in rows:
        values = row.values
        try:
            row.values = {ours: values[theirs] for ours, theirs in pairs}
        except KeyError:
            row.values = {ours: _reach(values, theirs) for ours, theirs in pairs}
            for ours, theirs in pairs:
                if row.values[ours] is _ABSENT:
                    _expect(row, theirs, values, there)
                    row.values[ours] = None
                    filled[ours] += 1
        yield row


def _reach(values: Mapping[str, Any], name: str) -> Any:
    value = values.get(name, _ABSENT)
    if value is not _ABSENT:
        return value
    value = values
    for part in name.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _expect(row: Row, name: str, values: Mapping[str, Any], there: Container[str]) -> None:
    if not row.sparse or name not in there:
        raise DataError(
            f"{row.place}: there is no column {name!r}; it has {listed(list(values))}: fix `columns`"
        )


def _alike(rows: Iterable[Row], head: Sequence[Row], filled: Counter[str]) -> Iterator[Row]:
    if not head:
        return
    columns = dict.fromkeys(name for row in head if row is head[0] or row.sparse for name in row.values)
    place = head[0].place
    for row in rows:
        if row.values.keys() != columns.keys():
            if not row.sparse or row.values.keys() - columns.keys():
                raise DataError(
                    f"{row.place}: the columns are {listed(list(row.values))}, but {place} has "
                    f"{listed(list(columns))}; name those wanted with `columns`"
                )
            filled.update(columns.keys() - row.values.keys())
            row.values = {name: row.values.get(name) for name in columns}
        yield row


def text_columns(head: Sequence[Row], labels: Iterable[str], named: Sequence[str]) -> list[str]:
    """Return the columns that hold text: those named, or else those called `text…`, or else all of them.

    A text is a string or a conversation; where there is none, lists of words are. `head` are the first
    rows, which tell what a column holds; labels and `id` are never text.
    Raises DataError when a column named is not there, or there is no text at all.
    """
    columns = list(head[0].values)
    missing = [name for name in named if name not in columns]
    if missing:
        raise DataError(
            f"{head[0].place}: `text` names {missing[0]!r}, but the columns are {listed(columns)}"
        )
    if named:
        return list(named)
    others = [name for name in columns if name not in {*labels, "id"}]
    strings = [name for name in others if _all(head, name, lambda value: isinstance(value, str))]
    talks = [name for name in others if _all(head, name, is_talk)]
    texts = [name for name in strings if name.startswith("text")] or strings + talks
    texts = texts or [name for name in others if _all(head, name, is_words)]
    if not texts:
        lists = any(isinstance(value, (list, tuple)) for value in head[0].values.values())
        also = "; a conversation is a list of messages {role, content}" if lists else ""
        raise DataError(
            f"{head[0].place}: no column holds text; they are "
            f"{listed(columns)}: map one with `columns: {{text: …}}`{also}"
        )
    return texts


def _all(rows: Sequence[Row], name: str, fits: Callable[[Any], bool]) -> bool:
    values = [row.values[name] for row in rows if row.values[name] is not None]
    return any(map(fits, values)) and all(fits(value) for value in values if value != [])


def is_words(value: Any) -> bool:
    """Tell whether a value is a list of strings."""
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)


def is_talk(value: Any) -> bool:
    """Tell whether a value is a conversation, which is a list of messages {role, content}."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(isinstance(part, Mapping) and isinstance(part.get("content"), str) for part in value)
    )


def take_texts(rows: Iterable[Row], columns: Sequence[str], ledger: Ledger) -> Iterator[Row]:
    """Move the text columns into `row.texts` and enter the rows in the ledger; null texts are dropped."""
    for row in rows:
        row.texts = [text for name in columns for text in _texts(row, name)]
        ledger.enter(row.characters)
        if any(row.values[name] is None for name in columns):
            ledger.drop(MISSING, row.characters)
        else:
            yield row


def _texts(row: Row, name: str) -> Sequence[str]:
    value = row.values[name]
    if isinstance(value, str):
        return (value,)
    if value is None or is_words(value):
        return value or ()
    if is_talk(value):
        return [message["content"] for message in value]
    raise DataError(
        f"{row.place}: {name!r} is {value!r:.40}, not a string; write it in quotes, or name the "
        "text columns with `text`"
    )
