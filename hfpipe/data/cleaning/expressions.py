"""Regular expressions of a recipe: checked when the recipe is read, and run with a time limit."""

from __future__ import annotations

import re
from collections.abc import Callable

import regex

from hfpipe.data.rows import Row
from hfpipe.errors import DataError

SECONDS = 3.0
"""Time limit in seconds of an expression for one text of a row; a typical one takes microseconds."""
MOST_COPIES = 100_000
"""Maximum number of copies that nested counted repeats may expand to; each copy takes memory."""
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()]|\{(\d+)(?:,\d*)?\}|.", re.DOTALL)


def check_expression(pattern: str) -> str:
    """Return the expression. Raises ValueError if it cannot be compiled, or would take gigabytes."""
    copies = _count_copies(pattern)
    if copies > MOST_COPIES:
        raise ValueError(
            f"{pattern!r:.60} repeats its parts {copies:,} times, too many to compile; write smaller counts"
        )
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r:.60} is not a regular expression: {error}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise ValueError(f"{pattern!r:.60} is nested too deeply to compile; write a simpler one") from None
    return pattern


def compile_search(pattern: str, step: str) -> Callable[[Row], bool]:
    """Return a function that reports whether an expression matches anywhere in the texts of a row.

    The function raises DataError, with the location of the row, if that takes more than `SECONDS`.
    """
    search = regex.compile(pattern).search

    def matches(row: Row) -> bool:
        try:
            return any(search(text, timeout=SECONDS) for text in row.texts)
        except TimeoutError:
            raise DataError(
                f"{row.place}: the expression of `{step}`, {pattern!r:.60}, takes more than {SECONDS:g} s on "
                "this row; write it without a repeat inside a repeat, such as (a+)+"
            ) from None

    return matches


def _count_copies(pattern: str) -> int:
    """Return how many copies the counted repeats expand to: 600 for `(?:a{20}){30}`."""
    groups, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token[0] == "(":
            groups.append(0)
            last = 0
        elif token[0] == ")" and len(groups) > 1:
            last = max(1, groups.pop())
            groups[-1] += last
        elif token[1] is not None:
            groups[-1] += last * (max(1, int(token[1][:9])) - 1)
            last *= max(1, int(token[1][:9]))
        else:
            last = 1
            groups[-1] += 1
    return sum(groups)
