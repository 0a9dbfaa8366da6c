"""Reads the inputs of a prediction as rows: texts, lines of an open file, and files of any format."""

from __future__ import annotations

import codecs
import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from io import TextIOBase
from itertools import chain, count
from pathlib import Path
from typing import Any, TextIO

from hfpipe.data.readers.file_settings import parse_read_options
from hfpipe.data.readers.files import read_files
from hfpipe.data.rows import Row
from hfpipe.errors import DataError, HfpipeError, Problem, RecipeError
from hfpipe.report import DataFacts

log = logging.getLogger(__name__)

TEXT = "text"
LINE = "standard input, line"
LONGEST = 100_000_000
"""Maximum number of bytes per line; a longer input is assumed to have no line breaks."""
Values = Mapping[str, Any]
Answer = dict[str, Any]
Ask = Callable[[Iterator[tuple[str, Values]]], Iterator[tuple[Values, Answer]]]
"""Takes rows with their names for messages, and yields each row with its prediction, in order."""
Given = str | Path | TextIO | Iterable[str | Mapping[str, Any]]
"""A text, texts, rows with the columns of the task, an open file of lines, or the path of a file of rows."""


def read_input_rows(given: Given, inputs: Sequence[str], options: Sequence[str] = ()) -> Iterator[Row]:
    """Return a row for each text, line or mapping, after checking that there is at least one.

    If the task has a single input, a text is its value, or a JSON object that contains it. If it has several
    `inputs`, a text is a JSON object with all of them. `options` are file options, as `key=value`. Raises
    RecipeError for options that are invalid or given without a file, and DataError when a text is not such an
    object, when the input is empty, or when a file cannot be read.
    """
    stated = parse_read_options(options)
    if isinstance(given, Path):
        return read_files(given, str(given), stated)
    if options:
        raise RecipeError([Problem("--read says how a file is read; name one with --input FILE")])
    if isinstance(given, TextIOBase):
        found = _create_rows(_read_lines(given, inputs), LINE, inputs)
    else:
        found = _create_rows([given] if isinstance(given, str) else given, TEXT, inputs)
    first = next(found, None)
    if first is None:
        raise DataError("there is no input for the model; give texts, --input FILE, or lines to read")
    return chain([first], found)


def _read_lines(given: Any, inputs: Sequence[str]) -> Iterator[str | Mapping[str, Any]]:
    """Yield the lines of an open file without line ends; input from a terminal or pipe must be UTF-8.

    A blank line is an empty row. Raises DataError for bytes that are not UTF-8, and for a line that is too
    long.
    """
    stream = getattr(given, "buffer", given)
    nothing = dict.fromkeys(inputs, "")
    for number in count(1):
        line = stream.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise DataError(f"{LINE} {number}: is longer than {LONGEST / 1e6:.0f} MB; split it into lines")
        text = _decode(line, number) if isinstance(line, bytes) else line
        text = text.removesuffix("\n").removesuffix("\r")
        yield text if text.strip() else nothing


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        utf16 = number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        fix = "convert it, as by iconv -f UTF-16 -t UTF-8" if utf16 else "convert it to UTF-8, as by iconv"
        byte = line[error.start]
        raise DataError(f"{LINE} {number}: byte {error.start} ({byte:#04x}) is not UTF-8; {fix}") from None


def pair_with_predictions(
    given: Iterator[Row], inputs: Sequence[str], ask: Ask
) -> Iterator[tuple[Values, Answer | None]]:
    """Yield every row with its result from `ask`, in order; None for an empty row of a file.

    Results of the rows before an invalid row are yielded before the error is raised.
    """
    waiting: deque[Row] = deque()
    blank = _EmptyRows(inputs)

    def full() -> Iterator[tuple[str, Values]]:
        for row in given:
            waiting.append(row)
            if not blank.count_if_empty(row):
                yield row.place, row.values

    def blanks() -> Iterator[tuple[Values, None]]:
        while waiting and blank.is_empty(waiting[0]):
            yield waiting.popleft().values, None

    try:
        for values, answer in ask(full()):
            yield from blanks()
            waiting.popleft()
            yield values, answer
    except HfpipeError:
        yield from blanks()
        raise
    yield from blanks()
    blank.warn()


class _EmptyRows:
    """Detects rows without input, and reports their number at the end."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = inputs
        self._number, self._first = 0, ""

    def is_empty(self, row: Row) -> bool:
        return any(_is_empty(row.values[name]) for name in self._inputs)

    def count_if_empty(self, row: Row) -> bool:
        if not self.is_empty(row):
            return False
        self._first = self._first or row.place
        self._number += 1
        return True

    def warn(self) -> None:
        if self._number:
            what = "1 row has" if self._number == 1 else f"{self._number:,} rows have"
            log.warning("%s no text and the prediction null: %s", what, self._first)


def _create_rows(
    given: Iterable[str | Mapping[str, Any]], origin: str, inputs: Sequence[str]
) -> Iterator[Row]:
    for number, asked in enumerate(given, 1):
        columns = (
            _parse_columns(asked, f"{origin} {number}", inputs) if isinstance(asked, str) else dict(asked)
        )
        yield Row(columns, origin, number)


def _parse_columns(text: str, place: str, inputs: Sequence[str]) -> dict[str, Any]:
    try:
        found = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):  # not JSON, or nested too deep
        found = None
    if len(inputs) == 1 and not (isinstance(found, dict) and inputs[0] in found):
        return {inputs[0]: text}
    if not isinstance(found, dict):
        example = json.dumps(dict.fromkeys(inputs, "…"), ensure_ascii=False)
        raise DataError(
            f"{place}: the model reads {len(inputs)} columns; write a JSON object such as {example}"
        )
    return found


def complete_rows(
    given: Iterator[Row], inputs: Sequence[str], facts: DataFacts, optional: Collection[str] = ()
) -> Iterator[Row]:
    """Yield the rows after checking that they have all inputs of the model.

    Raises DataError at the first row without a column or with a value of the wrong type, and for an empty
    text. Columns in `optional` may be missing or null.
    """
    for row in given:
        row.values.update(
            {
                name: row.values.get(name)
                if name in optional and row.values.get(name) in (None, "")
                else _get_value(row, name, facts.columns.get(name, ""))
                for name in inputs
            }
        )
        yield row


def _get_value(row: Row, name: str, kind: str) -> Any:
    if name not in row.values:
        there = ", ".join(row.values) or "nothing"
        raise DataError(f"{row.place}: there is no {name!r}, which the model needs; it has {there}")
    value = row.values[name]
    if _is_empty(value):
        if row.origin == TEXT:
            raise DataError(f"{row.place}: {name!r} is empty; remove it")
        return value
    _check_unicode(value, row, name)
    if kind == "string" and not isinstance(value, str):
        raise DataError(f"{row.place}: {name!r} holds {json.dumps(value, default=str)[:40]}, not a text")
    return value


def _is_empty(value: Any) -> bool:
    """Return whether a value is missing, a blank text or an empty list; 0 and False are values."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, Sized) and len(value) == 0)


def _check_unicode(value: Any, row: Row, name: str) -> None:
    """Raise DataError for lone surrogates, which JSON escapes and undecodable arguments can contain."""
    try:
        (value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode_escape").decode()
        raise DataError(
            f"{row.place}: {name!r} holds {half}, which is not a character; fix the text"
        ) from None
