"""Marks the parts of a text that cleaning removed and added."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

LONGEST = 20_000
"""Maximum number of characters to compare; only the length of the rest is shown."""
AROUND = 120
"""Number of unchanged characters shown on each side of a change."""

Change = Literal["", "removed", "added"]


class TextPart(NamedTuple):
    """A part of a text, which cleaning may have removed or added."""

    text: str
    change: Change = ""


def compare_texts(before: str, after: str) -> tuple[list[TextPart], list[TextPart]]:
    """Return both texts in parts; parts that are not in the other text in this order are marked.

    Long unchanged parts are shortened in the middle.
    """
    first, second = (re.findall(r"\s+|\w+|[^\w\s]", text[:LONGEST]) for text in (before, after))
    removed: list[TextPart] = []
    added: list[TextPart] = []
    for what, old_start, old_end, new_start, new_end in SequenceMatcher(
        None, first, second, autojunk=False
    ).get_opcodes():
        old, new = "".join(first[old_start:old_end]), "".join(second[new_start:new_end])
        if what == "equal":
            removed.append(TextPart(_shorten(old)))
            added.append(TextPart(_shorten(new)))
            continue
        removed += [TextPart(old, "removed")] if old else []
        added += [TextPart(new, "added")] if new else []
    return removed + _describe_rest(before), added + _describe_rest(after)


def _shorten(text: str) -> str:
    left_out = len(text) - 2 * AROUND
    return text if left_out < AROUND else f"{text[:AROUND]} … {text[-AROUND:]}"


def _describe_rest(text: str) -> list[TextPart]:
    more = len(text) - LONGEST
    return [TextPart(f" … ({more:,} more characters)")] if more > 0 else []
