"""Column names of a table: from its first line, stripped of white space, or from the recipe."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median

from hfpipe.data.readers.file_options import FileOptions
from hfpipe.data.rows import find_repeated
from hfpipe.errors import DataError
from hfpipe.recipe.messages import join_names

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|\.\d+)([eE][-+]?\d+)?%?")
_SENTENCE = 5
"""Number of words from which a first line is considered a text, if later lines have as many."""


def find_column_names(
    first: Sequence[str], below: Sequence[Sequence[str]], options: FileOptions, place: str
) -> list[str]:
    """Return the column names; `first` is the first row and `below` are some of the following rows.

    A column without a name is called as in pandas (`Unnamed: 0`); with `header: false` columns are called
    `column_1`, `column_2`, …. Raises DataError when the options have too few or too many names, when a name
    is repeated, and when `header` is not set and the first line looks like data.
    """
    header = options.header
    if header is False:
        return [f"column_{number}" for number in range(1, len(first) + 1)]
    if isinstance(header, list):
        if len(header) != len(first):
            raise DataError(
                f"{place}: has {len(first)} fields, but header names {len(header)} "
                f"({join_names(header)}); name each of them, as with "
                f"{options.advise(header=_complete_names(header, len(first)))}"
            )
        return header
    names = [name.strip("\ufeff \t\r\n\u00a0") for name in first]
    reason = _find_sign_of_data(names, below) if header is None else None
    if reason is not None:
        own, true = options.advise(header=suggest_names(names, below)), options.advise(header=True)
        raise DataError(
            f"{place}: the first line looks like data, not like column names ({reason}); name the columns "
            f"with {own}, or write {true}"
        )
    names = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
    twice = find_repeated(names)
    if twice is not None:
        own = options.advise(header=suggest_names(names, below))
        raise DataError(
            f"{place}: the header has {twice!r} twice; rename one, or, if this line is not a header, name "
            f"the columns with {own}"
        )
    return names


def _find_sign_of_data(names: Sequence[str], below: Sequence[Sequence[str]]) -> str | None:
    """Return the reason why the first line looks like data, or None."""
    rows = [row for row in below if len(row) == len(names) and row != list(names)]
    if not rows or [*names] == [str(number) for number in range(len(names))]:
        return None  # pandas writes 0, 1, … as names of unnamed columns
    columns = list(zip(*rows, strict=True))
    numeric = [sum(map(_is_numeric, column)) > 0.9 * len(column) for column in columns]
    if len(rows) > 2 and any(
        all_numbers and not _is_numeric(name)
        for name, all_numbers in zip(names, numeric, strict=True)
        if name
    ):
        return None  # a word above numbers is a name
    for name, column, all_numbers in zip(names, columns, numeric, strict=True):
        if all_numbers and _is_numeric(name):
            return f"{name} is a number like those below it"
        if name and sum(value.strip() == name for value in column) >= max(1, len(rows) // 100):
            return f"{name!r:.40} is also a value below it"
        if _count_words(name) >= _SENTENCE <= median(map(_count_words, column)):
            return f"{name!r:.40} is a text like those below it"
    return None


def suggest_names(names: Sequence[str], below: Sequence[Sequence[str]]) -> list[str]:
    """Suggest names for unnamed columns: the longest is `text`, and the only other one is `label`."""
    lengths = [
        sum(len(row[place]) for row in [names, *below] if len(row) > place) for place in range(len(names))
    ]
    text = lengths.index(max(lengths))
    others = (
        ["label"]
        if len(names) == 2
        else [f"column_{place + 1}" for place in range(len(names)) if place != text]
    )
    return [*others[:text], "text", *others[text:]]


def _complete_names(names: Sequence[str], width: int) -> list[str]:
    """Return the names, shortened or completed to the number of columns."""
    return [*names, *(f"column_{number}" for number in range(len(names) + 1, width + 1))][:width]


def _is_numeric(value: str) -> bool:
    return _NUMBER.fullmatch(value.strip()) is not None


def _count_words(text: str) -> float:
    """Return the number of words; two characters of a script without spaces count as one word."""
    dense = len(re.findall(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]", text))
    return dense / 2 if dense else len(text.split())
