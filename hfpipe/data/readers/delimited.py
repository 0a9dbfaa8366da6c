"""Reads csv and tsv files."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TextIO

from hfpipe.data.readers.dialect import SAMPLE, Dialect, detect_dialect, sample_rows
from hfpipe.data.readers.file_options import DataFile
from hfpipe.data.readers.header import find_column_names, suggest_names
from hfpipe.data.readers.streams import open_text
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.recipe.messages import join_names

QUOTE, ESCAPE = '"', "\\"
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


def read_csv(file: DataFile) -> Iterator[Row]:
    """Yield the rows of a csv file. Raises DataError with the line of the first invalid row."""
    return _read(file, "csv")


def read_tsv(file: DataFile) -> Iterator[Row]:
    """Yield the rows of a tsv file. Raises DataError with the line of the first invalid row."""
    return _read(file, "tsv")


def _read(file: DataFile, kind: str) -> Iterator[Row]:
    limit = csv.field_size_limit(sys.maxsize)  # a document may exceed csv's limit of 128 KiB
    try:
        with open_text(file, newline="") as stream:
            sample = stream.read(SAMPLE) + stream.readline()
        dialect = detect_dialect(sample, kind, file.options)
        file.note(dialect.list_differences(kind))
        with open_text(file, newline="") as stream:
            for _ in range(dialect.skipped):
                sample = sample.partition("\n")[2]
                stream.readline()
            table = _Table(file, dialect, sample_rows(dialect, sample) or [])
            yield from table.read_rows(stream, watch=dialect.quote is None and file.options.quote is None)
    finally:
        csv.field_size_limit(limit)


class _Table:
    """One file: converts its lines to rows, and reports the line of an error."""

    def __init__(self, file: DataFile, dialect: Dialect, sample: Sequence[Sequence[str]]) -> None:
        self._file = file
        self._advise = file.options.advise
        self._dialect = dialect
        self._sample = sample
        self._names: list[str] = []
        self._origin = f"{file.name}, line"

    def read_rows(self, stream: TextIO, *, watch: bool) -> Iterator[Row]:
        """Yield the rows; with `watch`, detect quotes that enclose fields after all."""
        guessed = self._dialect.escape is not None and self._file.options.escape is None
        reader = self._dialect.make_reader(self._check_escapes(stream) if guessed else stream)
        origin, before = self._origin, self._dialect.skipped + 1
        line = before
        try:
            body, repeated = self._read_header(reader)
            names, width = self._names, len(self._names)
            for fields in body:
                if len(fields) == width:
                    if fields == repeated:
                        raise self._make_repeated_header_error(line)
                    yield Row(dict(zip(names, fields, strict=True)), origin, line)
                elif fields:
                    raise self._make_ragged_row_error(fields, line)
                if watch and '"' in "".join(fields):
                    watch = self._is_undecided(fields, line)
                line = before + reader.line_num
        except csv.Error as error:
            raise self._make_broken_row_error(str(error), line) from None

    def _read_header(self, reader: Any) -> tuple[Iterator[list[str]], list[str] | None]:
        """Set the column names; return the rows, and the header if a repeated header line is an error."""
        header = self._file.options.header
        first: list[str] | None = next(filter(None, reader), None)
        if first is None:
            return iter(()), None
        place = f"{self._origin} {self._dialect.skipped + reader.line_num}"
        self._names = find_column_names(first, self._sample[1:], self._file.options, place)
        if header is False or isinstance(header, list):
            return chain([first], reader), None
        # An empty row takes the place of the header, so that lines are counted correctly.
        return chain([[]], reader), first if len(first) > 1 else None

    def _make_repeated_header_error(self, line: int) -> DataError:
        suggested = suggest_names(self._names, self._sample[1:])
        return DataError(
            f"{self._origin} {line}: repeats the header, as in concatenated files; delete the line, or, if "
            f"both are rows, name the columns with {self._advise(header=suggested)}"
        )

    def _check_escapes(self, lines: TextIO) -> Iterator[str]:
        r"""Yield the lines; raise DataError for a backslash before a character that needs no escape."""
        meant = re.compile(rf"\\[\\\"\r\n{re.escape(self._dialect.separator)}]")
        for number, line in enumerate(lines, self._dialect.skipped + 1):
            if "\\" in (rest := meant.sub("", line)):
                after = rest[rest.index("\\") + 1 :][:1]
                escape = self._advise(escape=ESCAPE)
                raise DataError(
                    f"{self._origin} {number}: this file escapes quotes with backslashes, but has a "
                    f"backslash before {after!r}; write {escape} to read that as {after!r}, or rewrite the "
                    "file with doubled quotes"
                )
            yield line

    def _is_undecided(self, fields: Sequence[str], line: int) -> bool:
        """Return whether it is still undecided if quotes enclose fields; raise DataError once they do."""
        for field in fields:
            if field[:1] == '"':
                if not _QUOTED.fullmatch(field):
                    return False
                if '""' in field[1:-1]:
                    bare = self._advise(quote=False)
                    raise DataError(
                        f"{self._origin} {line}: a field is quoted as by a csv writer; write "
                        f"{self._advise(quote=QUOTE)} to remove the quotes, or {bare} if they are text"
                    )
        return True

    def _make_ragged_row_error(self, fields: Sequence[str], line: int) -> DataError:
        fix = "quote fields that contain the separator"
        if self._dialect.quote is None and self._file.options.quote is None and '"' in "".join(fields):
            fix = f"write {self._advise(quote=QUOTE)} if quotes enclose fields"
        elif len(self._names) == 1 and (other := re.search(r"[;|\t]", self._names[0])):
            fix = f"write {self._advise(separator=other[0])} if that separates fields"
        few = f"{len(fields)} field{'s' * (len(fields) != 1)}"
        return DataError(
            f"{self._origin} {line}: {few}, but the header has {len(self._names)} "
            f"({join_names(self._names)}); {fix}"
        )

    def _make_broken_row_error(self, cause: str, line: int) -> DataError:
        if "unexpected end of data" in cause:
            what = "the quote that opens here is never closed; close it"
        elif "expected after" in cause:
            what = (
                "more text follows a closing quote; double the quotes inside a field, write "
                f"{self._advise(escape=ESCAPE)} if a backslash precedes them"
            )
        else:
            what = f"{cause}; fix the line"
        return DataError(
            f"{self._origin} {line}: {what}, or write {self._advise(quote=False)} if quotes are text"
        )
