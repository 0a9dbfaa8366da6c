"""Reads CoNLL files: one word with its tags per line, and a blank line after each sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from hfpipe.data.readers.file_options import DataFile
from hfpipe.data.readers.streams import open_text
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.recipe.messages import join_names

DOCUMENT = "-DOCSTART-"
"""First field of the line that begins a document in CoNLL-2003."""


def read_conll(file: DataFile) -> Iterator[Row]:
    """Yield a row for each sentence: `words` from the first column and `tags` from the last, unchanged.

    With a header such as `[words, pos, chunks, tags]`, all named columns are returned.
    Raises DataError at a line with more or fewer columns than the first line, or with only one column.
    """
    header = file.options.header
    if isinstance(header, bool):
        raise DataError(
            f"{file.name}: CoNLL files have no header; name their columns, as with "
            f"{file.options.advise(header=['words', 'tags'])}, or delete header"
        )
    names: list[str] = header or []
    width = len(names)
    with open_text(file) as stream:
        for start, sentence in _split_sentences(stream):
            width = width or _count_columns(sentence[0], f"{file.name}, line {start}")
            for number, fields in enumerate(sentence, start):
                if len(fields) != width:
                    raise _make_ragged_line_error(fields, width, names, f"{file.name}, line {number}")
            yield Row(_make_columns(sentence, names), f"{file.name}, line", start)
    if width > 2 and not names:
        file.note({"columns": f"first and last of {width}"})


def _split_sentences(stream: Iterable[str]) -> Iterator[tuple[int, list[list[str]]]]:
    """Yield each sentence: the number of its first line, and the fields of its lines."""
    start = 0
    lines: list[list[str]] = []
    for number, line in enumerate(chain(stream, [""]), 1):
        fields = _split_fields(line)
        if fields and fields[0] != DOCUMENT:
            start = start or number
            lines.append(fields)
        elif lines:
            yield start, lines
            start, lines = 0, []


def _split_fields(line: str) -> list[str]:
    """Split a line at tabs if it has any (words may then contain spaces), otherwise at spaces."""
    line = line.strip("\r\n")
    if not line.strip(" \t"):
        return []
    return (
        line.rstrip("\t").split("\t")
        if "\t" in line.strip()
        else [field for field in line.split(" ") if field]
    )


def _make_columns(sentence: list[list[str]], names: list[str]) -> dict[str, list[str]]:
    if names:
        return {name: list(column) for name, column in zip(names, zip(*sentence, strict=True), strict=True)}
    return {"words": [fields[0] for fields in sentence], "tags": [fields[-1] for fields in sentence]}


def _count_columns(fields: list[str], place: str) -> int:
    """Return the number of columns. Raises DataError for other formats with the same file extension."""
    if fields[0].startswith("#") or (len(fields) == 10 and fields[0] == "1"):
        raise DataError(
            f"{place}: this is a CoNLL-U file, which has several columns of tags; "
            "read it with `python: file.py:function`"
        )
    if all("|" in field for field in fields):
        raise DataError(
            f"{place}: has a whole sentence on one line (word|tag), not CoNLL; write one word per line"
        )
    if len(fields) < 2:
        raise DataError(f"{place}: {fields[0][:40]!r} has no tag; write a word and its tag on each line")
    return len(fields)


def _make_ragged_line_error(fields: list[str], width: int, columns: list[str], place: str) -> DataError:
    expected = f"`header` names {width} ({join_names(columns)})" if columns else f"the first line has {width}"
    return DataError(f"{place}: {len(fields)} columns, but {expected}; fix the line")
