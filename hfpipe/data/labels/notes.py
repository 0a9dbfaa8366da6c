"""Notes of the summary about suspicious values in a valid label column."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from hfpipe.advice import advise_drop
from hfpipe.data.labels.labels import Label
from hfpipe.recipe.messages import join_names

SHOWN = 3
"""Maximum number of names, or groups of names, in a note."""
_NOTHING = {"nan", "null", "none", "n/a", "na", "#n/a", "<na>"}
"""Common spellings of a missing value, in lower case."""


def find_suspicious_values(label: Label) -> Iterator[str]:
    """Yield the notes as phrases for the summary."""
    column = label.column
    if label.normalized:
        yield f"{label.normalized:,} cells of {column!r} stripped of white space or normalized to NFC"
    if label.kind == "number":
        return
    names = label.ids.sort_names()
    groups = [join_names(group) for group in group_similar_names(names)]
    if groups:
        yield f"note: classes of {column!r} that differ by case or white space only: {_list_some(groups)}"
    empty = [repr(name) for name in label.ids.find_unseen()]
    if empty:
        yield f"note: no row has these classes of {column!r}: {_list_some(empty)}"
    nothing = [name for name in names if name.lower() in _NOTHING]
    if nothing:
        drop = advise_drop(column, nothing[0])
        yield f"note: {column!r} has a class {nothing[0]!r}; if that means a missing label, write {drop}"


def group_similar_names(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that differ only in case or inner white space."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups["".join(name.casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _list_some(parts: list[str]) -> str:
    more = f" and {len(parts) - SHOWN:,} more" if len(parts) > SHOWN else ""
    return " / ".join(parts[:SHOWN]) + more
