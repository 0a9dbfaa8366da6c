"""Changes of an edit to a text, and the new position of a span after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int]
"""Position of the first character, and of the one after the last."""


class Change(NamedTuple):
    """The characters from `start` to `end` are replaced by `text`."""

    start: int
    end: int
    text: str


def apply_changes(text: str, changes: Sequence[Change]) -> str:
    """Return the text with the changes applied; they are in order and do not overlap."""
    if not changes:
        return text
    parts, done = [], 0
    for change in changes:
        parts += [text[done : change.start], change.text]
        done = change.end
    return "".join([*parts, text[done:]])


def shift_span(span: Span, changes: Sequence[Change]) -> Span | None:
    """Return the position of a span after the changes; None if its characters are gone.

    A replacement inside the span, or of the whole span, belongs to the span; an insertion at its edges does
    not. After a deletion across an edge, the span is the remaining part. After a replacement across an edge,
    or if nothing remains, the result is None.
    """
    ends: list[int] = []
    for place, first in zip(span, (True, False), strict=True):
        moved = place
        for start, end, text in changes:
            if end <= place and (first or start < place):
                moved += len(text) - (end - start)
            elif start < place < end:
                if text:
                    return None
                moved -= place - start
        ends.append(moved)
    return (ends[0], ends[1]) if ends[0] < ends[1] else None
