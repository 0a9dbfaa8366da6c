"""What a model is asked, as rows: texts, lines of an open file, and files of any format."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import TextIOBase
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from hfpipe.data.files import read
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.report import DataFacts

Given = str | Path | TextIO | Iterable[str | Mapping[str, Any]]
"""A text, texts, rows that hold what a task reads, an open file of lines, or the path of a file of rows."""


def rows(given: Given, inputs: Sequence[str]) -> Iterator[Row]:
    """Return a row for each text, line or mapping, once the first is known to be there.

    A text is the only one of the task's `inputs`, or a JSON object that holds it; where there are several,
    it is a JSON object of them.
    Raises DataError when it is not, and when nothing is given or a file cannot be read.
    """
    if isinstance(given, Path):
        return read(given, str(given))
    if isinstance(given, TextIOBase):
        found = _rows((line.rstrip("\n") for line in given), "standard input, line", inputs)
    else:
        found = _rows([given] if isinstance(given, str) else given, "text", inputs)
    first = next(found, None)
    if first is None:
        raise DataError("there is nothing to ask the model; give texts, --input FILE, or lines to read")
    return chain([first], found)


def _rows(given: Iterable[str | Mapping[str, Any]], origin: str, inputs: Sequence[str]) -> Iterator[Row]:
    for number, asked in enumerate(given, 1):
        columns = _columns(asked, f"{origin} {number}", inputs) if isinstance(asked, str) else dict(asked)
        yield Row(columns, origin, number)


def _columns(text: str, place: str, inputs: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except ValueError:
        found = None
    if len(inputs) == 1 and not (isinstance(found, dict) and inputs[0] in found):
        return {inputs[0]: text}
    if not isinstance(found, dict):
        example = json.dumps(dict.fromkeys(inputs, "…"), ensure_ascii=False)
        raise DataError(
            f"{place}: the model reads {len(inputs)} columns; write a JSON object such as {example}"
        )
    return found


def complete(
    given: Iterator[Row], inputs: Sequence[str], facts: DataFacts, optional: Collection[str] = ()
) -> Iterator[Row]:
    """Yield the rows once they are known to hold what the model reads.

    Raises DataError at the first that lacks a column, or holds nothing or something else in it. What is
    `optional` may be missing or null.
    """
    for row in given:
        row.values.update(
            {
                name: row.values.get(name)
                if name in optional and row.values.get(name) in (None, "")
                else _value(row, name, facts.columns.get(name, ""))
                for name in inputs
            }
        )
        yield row


def _value(row: Row, name: str, kind: str) -> Any:
    if name not in row.values:
        there = ", ".join(row.values) or "nothing"
        raise DataError(f"{row.place}: there is no {name!r}, which the model reads; it has {there}")
    value = row.values[name]
    if value is None or not (value.strip() if isinstance(value, str) else value):
        raise DataError(f"{row.place}: {name!r} is empty; take it out")
    if kind == "string" and not isinstance(value, str):
        raise DataError(f"{row.place}: {name!r} holds {json.dumps(value, default=str)[:40]}, not a text")
    return value
