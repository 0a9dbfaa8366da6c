"""Shared parts of messages about recipes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Any

from hfpipe.errors import join_words

_COMPARED = 100
_CANDIDATES = 1000
"""Maximum number of names that are compared for a suggestion; `_COMPARED` limits their characters."""

Keys = tuple["str | int", ...]
"""Path of a value in a recipe, as a sequence of keys."""


def format_keys(path: Keys) -> str:
    """Format a path for messages: `stages.wiki.clean[0]`."""
    text = ""
    for key in path:
        name = str(key) if str(key).isprintable() else repr(key)
        text += f"[{key}]" if isinstance(key, int) else f".{name}" if text else name
    return text


def describe_position(path: Keys) -> str:
    """Return ` in stages.wiki`, or an empty text at the top level of the recipe."""
    return f" in {format_keys(path)}" if path else ""


def find_similar_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant: one that is similar or begins with the name."""
    given = _fold_name(name[:_COMPARED])
    folded = {_fold_name(entry): entry for entry in islice(known, _CANDIDATES)}
    longer = [entry for entry in folded if len(given) > 2 and entry.startswith(given)]
    close = get_close_matches(given, folded, n=1, cutoff=0.8) or longer[:1]
    close = close or get_close_matches(given, folded, n=1, cutoff=0.66)
    return folded[close[0]] if close else None


def _fold_name(name: str) -> str:
    return name.lower().replace("-", "_")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a similar name, or the list of names if it is short, or nothing."""
    names = list(known)
    close = find_similar_name(name, names)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; there is {join_names(names)}" if 0 < len(names) <= 14 else ""  # more would hide the message


def join_names(names: Iterable[str], last: str = "and") -> str:
    """Join names as `'a', 'b' and 'c'`; `none` for an empty list."""
    return join_words([repr(name) for name in names] or ["none"], last)


def fold_lines(text: str) -> str:
    """Return the beginning of a user's text, as one line."""
    return " ".join(text[:200].splitlines())


def describe_value(value: Any) -> str:
    """Describe a YAML value: `the text '5e-4x'`, `the number 3`, `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value!r}" if abs(value) < 10**20 else "a huge number"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
    return "a mapping" if isinstance(value, dict) else "a list"
