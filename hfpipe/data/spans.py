"""Updates the positions of answers when cleaning changes their text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hfpipe.data.answers import Answer, locate_answer, read_answers
from hfpipe.data.cleaning.alignment import apply_changes, shift_span
from hfpipe.data.cleaning.edits import Edit
from hfpipe.data.rows import Row
from hfpipe.errors import DataError

START = "answer_start"
_as_json = json.JSONEncoder(default=repr, skipkeys=True).encode


@dataclass
class Spans:
    """Columns of answers, each with the text column that contains them."""

    contexts: dict[str, str]
    """Answer column → text column."""
    changed: Counter[str] = field(default_factory=Counter)
    """Kind of conversion → number of rows."""

    def read(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Return the rows with integer answer starts. Raises DataError at a malformed answer."""
        return map(self._read, rows) if self.contexts else rows

    def _read(self, row: Row) -> Row:
        for column in self.contexts:
            if row.values[column] is not None:
                self._read_column(row, column)
        return row

    def _read_column(self, row: Row, column: str) -> None:
        value = row.values[column]
        try:
            answers = read_answers(value)
        except DataError as error:
            raise DataError(f"{row.place}: {column!r} {error}") from None
        row.values[column] = _write_answers(iter(answers), value)
        if _as_json(row.values[column]) != _as_json(value):  # in Python, 12.0 equals 12
            self.changed[f"{column}: {START} read as whole numbers"] += 1
        text = row.values[self.contexts[column]]
        if isinstance(text, str) and any(answer.is_misplaced(text) for answer in answers):
            self.changed[f"{column}: {START} does not match the answer, the nearest occurrence is used"] += 1

    def move(self, row: Row, edit: Edit) -> bool:
        """Update the answers of a row for an edit of its text.

        Returns whether the edit preserves every answer; if not, the row is not changed.
        """
        moved: dict[str, Any] = {}
        for column, context in self.contexts.items():
            text, value = row.values[context], row.values[column]
            if not isinstance(text, str) or value is None:
                continue
            passes = edit.trace(text)
            answers = [_move_answer(answer, text, passes) for answer in read_answers(value)]
            if None in answers:
                return False
            moved[column] = _write_answers((answer for answer in answers if answer is not None), value)
        row.values |= moved
        return True


def _write_answers(answers: Iterator[Answer], old: Any) -> Any:
    """Return answers in their original format, with its other keys unchanged."""
    if isinstance(old, str):
        return next(answers).text
    if not isinstance(old, Mapping):
        return [_write_answers(answers, one) for one in old]
    if isinstance(old["text"], str):
        found = next(answers)
        return {**old, "text": found.text} | ({START: found.start} if START in old else {})
    several = [next(answers) for _ in old["text"]]
    texts = {"text": [answer.text for answer in several]}
    return {**old, **texts} | ({START: [answer.start for answer in several]} if START in old else {})


def _move_answer(answer: Answer, text: str, passes: Sequence[Any]) -> Answer | None:
    """Return an answer in the edited text, None if the edit destroyed it.

    An answer that the text does not contain is not changed, and neither is the position of an empty answer.
    """
    try:
        span = locate_answer(answer, text) if answer.text else None
    except DataError:  # ambiguous, without a start: the task reports it
        span = None
    if span is None:
        return answer
    for changes in passes:
        span = shift_span(span, changes)
        if span is None:
            return None
        text = apply_changes(text, changes)
    return Answer(text[slice(*span)], None if answer.start is None else span[0])


def find_spans(head: Sequence[Row], texts: Sequence[str]) -> Spans:
    """Return the answer columns with positions: most of their values have an `answer_start`.

    The text column is `context`, or else the text column that contains most of the answers.
    """
    contexts: dict[str, str] = {}
    for column in head[0].values:
        values = [row.values[column] for row in head if row.values[column] is not None]
        if column not in texts and 2 * sum(map(_has_starts, values)) > len(values):
            held = {name: sum(_contains_answer(row, column, name) for row in head) for name in texts}
            best = max(held, key=lambda name: (name == "context", held[name]))
            contexts[column] = best
    return Spans(contexts)


def _has_starts(value: Any) -> bool:
    each = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(one, Mapping) and one.keys() >= {"text", START} for one in each)


def _contains_answer(row: Row, column: str, name: str) -> bool:
    text = row.values[name]
    try:
        answers = read_answers(row.values[column])
    except DataError:
        return False
    return isinstance(text, str) and any(
        answer.text and answer.start is not None and text.startswith(answer.text, max(0, answer.start))
        for answer in answers
    )
