"""Reads answers to questions in the common formats, and locates them in the text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hfpipe.errors import DataError

Span = tuple[int, int]
"""Position of the first character, and of the one after the last."""
FORM = "{text: [...], answer_start: [...]}"
"""Format of answers in SQuAD."""


class Answer(NamedTuple):
    """The text of an answer, and its start if the row states it."""

    text: str
    start: int | None
    """Position of its first character, counted from 0; None if it is not given."""

    def is_misplaced(self, context: str) -> bool:
        """Return whether the context has different characters at the stated start of the answer."""
        if not self.text or self.start is None:
            return False
        return self.start < 0 or not context.startswith(self.text, self.start)


def read_answers(value: Any) -> list[Answer]:
    """Return the answers in a value; an empty text means that there is no answer.

    A value is SQuAD's object of two lists, an object with one text, a text, or a list of objects or texts.
    A start is a whole number (pandas may write it as 12.0) or null. Raises DataError otherwise.
    """
    if isinstance(value, Mapping) and "text" in value:
        texts, starts = value["text"], value.get("answer_start")
        if isinstance(texts, str):
            texts, starts = [texts], [starts]
        if isinstance(texts, (list, tuple)):
            starts = [None] * len(texts) if starts is None else starts
            if isinstance(starts, (list, tuple)) and len(starts) == len(texts):
                return [_create_answer(*pair, value) for pair in zip(texts, starts, strict=True)]
    elif isinstance(value, str):
        return [_create_answer(value, None, value)]
    elif isinstance(value, (list, tuple)):
        return [answer for each in value for answer in _parse_answer(each, value)]
    raise _make_format_error(value)


def _parse_answer(value: Any, whole: Any) -> list[Answer]:
    if isinstance(value, (str, Mapping)):
        return read_answers(value)
    raise _make_format_error(whole)


def _make_format_error(value: Any) -> DataError:
    return DataError(f"holds {value!r:.60}; write {FORM}")


def _create_answer(text: Any, start: Any, whole: Any) -> Answer:
    if not isinstance(text, str):
        raise _make_format_error(whole)
    return Answer(text, _parse_start(start))


def _parse_start(start: Any) -> int | None:
    if start is None or (isinstance(start, int) and not isinstance(start, bool)):
        return start
    if isinstance(start, float) and start.is_integer():
        return int(start)
    raise DataError(
        f"holds the answer_start {start!r:.40}, which is not a whole number; write the position of the "
        "answer's first character, counted from 0"
    )


def locate_answer(answer: Answer, context: str) -> Span | None:
    """Return the character span of an answer: at its stated start, or at the occurrence nearest to it.

    None if the context does not contain it. Raises DataError if it has no start and occurs several times.
    """
    text, start = answer
    if start is not None and not answer.is_misplaced(context):
        return start, start + len(text)
    found = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if not found:
        return None
    if start is None and len(found) > 1:
        raise DataError(
            f"the answer {text!r:.60} occurs {len(found)} times in its context, at {found[0]}, {found[1]}…; "
            "select one with answer_start"
        )
    first = min(found, key=lambda place: abs(place - (start or 0)))
    return first, first + len(text)
