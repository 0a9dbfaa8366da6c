"""The few phrases that every message about a recipe is built from."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Any

_COMPARED = 100
_CANDIDATES = 1000
"""Characters of a name, and names, beyond which nobody misspelt one; comparing takes their product."""

Keys = tuple["str | int", ...]
"""The keys that lead to a value inside a recipe."""


def dotted_path(path: Keys) -> str:
    """Write a path as a person would: `stages.wiki.clean[0]`."""
    text = ""
    for key in path:
        name = str(key) if str(key).isprintable() else repr(key)
        text += f"[{key}]" if isinstance(key, int) else f".{name}" if text else name
    return text


def inside(path: Keys) -> str:
    """Return ` in stages.wiki`, or nothing at the top of the recipe."""
    return f" in {dotted_path(path)}" if path else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, if one is close or begins with it."""
    given = _folded(name[:_COMPARED])
    folded = {_folded(entry): entry for entry in islice(known, _CANDIDATES)}
    longer = [entry for entry in folded if len(given) > 2 and entry.startswith(given)]
    close = get_close_matches(given, folded, n=1, cutoff=0.8) or longer[:1]
    close = close or get_close_matches(given, folded, n=1, cutoff=0.66)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` when one name is close, what there is when they are few, or nothing."""
    names = list(known)
    close = nearest(name, names)
    if close is not None:
        return f"; did you mean {close!r}?"
    return f"; there is {join_names(names)}" if 0 < len(names) <= 14 else ""  # more would bury the message


def join_names(names: Iterable[str], last: str = "and") -> str:
    """Join names as `'a', 'b' and 'c'`; without any, `none`."""
    *head, tail = [repr(name) for name in names] or ["none"]
    return f"{', '.join(head)} {last} {tail}" if head else tail


def fold_lines(text: str) -> str:
    """Return the beginning of a text that a user wrote, as one line."""
    return " ".join(text[:200].splitlines())


def describe_value(value: Any) -> str:
    """Say what a YAML value is: `the text '5e-4x'`, `the number 3`, `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value!r}" if abs(value) < 10**20 else "a huge number"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 40 else value[:37] + '...'!r}"
    return "a mapping" if isinstance(value, dict) else "a list"
