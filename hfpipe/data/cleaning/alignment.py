"""What an edit changes in a text, and where a span of the text is afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Span = tuple[int, int]
"""Position of the first character, and the one after the last."""


class Change(NamedTuple):
    """The characters from `start` to `end` are replaced by `text`."""

    start: int
    end: int
    text: str


def apply_changes(text: str, changes: Sequence[Change]) -> str:
    """Return the text with changes made, which are in order and do not overlap."""
    if not changes:
        return text
    parts, done = [], 0
    for change in changes:
        parts += [text[done : change.start], change.text]
        done = change.end
    return "".join([*parts, text[done:]])


def move(span: Span, changes: Sequence[Change]) -> Span | None:
    """Return where a span is once the changes are made; None where its characters are gone.

    What is replaced inside the span, or is the span, stays in it; what is inserted at its edges does not.
    Where something is deleted across an edge, the rest stays. Where something is replaced across an edge,
    or nothing is left, there is no span.
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
