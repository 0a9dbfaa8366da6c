"""Labels: classes with their ids, lists of classes, and numbers; each row is checked before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from hfpipe.advice import advise
from hfpipe.data.labels import messages
from hfpipe.data.labels.class_ids import ClassIds
from hfpipe.data.labels.settings import Kind, LabelColumn
from hfpipe.data.labels.values import is_missing, normalize_name, parse_decimal, parse_list
from hfpipe.data.rows import Row
from hfpipe.errors import DataError
from hfpipe.number_format import is_number
from hfpipe.recipe.messages import join_names

USUAL: dict[str, str | None] = {"label": None, "labels": None, "tags": "words"}
"""Columns that are labels by default → a column that must be present as well."""
LONGEST_NAME = 500
"""Maximum number of characters in a class name; a longer value is a text."""
MOST_CLASSES = 100_000
"""Maximum number of classes in a column without `min_count`; more classes mean ids or texts."""
MANY_CLASSES = 1000
"""From this number of classes on, fewer than two rows per class on average mean ids or texts."""


class Label:
    """One label column: assigns provisional class ids while rows are read, and final ids at the end."""

    def __init__(
        self,
        column: str,
        settings: LabelColumn | None = None,
        names: Sequence[str] = (),
        companion: str | None = None,
    ) -> None:
        self.column = column
        self.settings = settings or LabelColumn()
        self.kind = self.settings.resolved_kind
        self.normalized = 0
        """Number of texts in the column whose spelling was normalized."""
        self._names = self.settings.names
        self._declared = frozenset(self._names)
        order = self._names or [normalize_name(name) for name in names]
        self.ids = ClassIds(order, declared=bool(self._names))
        self._companion = companion
        self._known = bool(order)
        self._stated = self.kind is not None
        self._numbered = not any(parse_decimal(name) is not None for name in self._names)
        self._width = len(self._names)
        self._whole = True
        self._type: type | None = None
        self._start = ""

    def detect_kind(self, head: Sequence[Row]) -> None:
        """Detect the kind of label from the first rows, unless the recipe sets it.

        Raises DataError for lists that look like indicators, with one 0 or 1 per class.
        """
        rows = [row for row in head if not is_missing(row.values[self.column])]
        values = [_convert_to_python(row.values[self.column]) for row in rows]
        if values and self.kind is None:
            self.kind = _infer(values)
        if self.kind == "classes" and self.settings.indicators is None and not self._known:
            lists = [self._split(value) for value in values]
            if _look_like_indicators(lists) and not _has_lengths_of_words(rows, self.column, lists):
                raise messages.make_ambiguous_indicators_error(
                    rows[0].place, self.column, lists[0], self.settings
                )

    def read(self, value: Any) -> Any:
        """Convert a cell to a class, a list of classes or a number; None if it is missing.

        Any other value is returned unchanged, so that a cleaning step may drop the row.
        """
        own: type = type(value)
        if own is str and own is self._type and self.kind == "class" and self.ids.find(value) is not None:
            return value  # the usual case: a class already seen in this spelling
        return self._read(_convert_to_python(value))

    def _read(self, value: Any) -> Any:
        if is_missing(value):
            empty = isinstance(value, str) and self.settings.allow_empty
            return [] if empty else None
        if self.kind is None:
            self.kind = _infer([value])
        if self.kind == "number":
            return self._read_number(value)
        if self.kind == "class":
            return self._read_class(value)
        items = self._split(value)
        if not isinstance(items, list):
            return items
        if self.settings.indicators:
            return self._read_indicators(items)
        return [self._read_class(_convert_to_python(item)) for item in items]

    def _read_number(self, value: Any) -> Any:
        number = parse_decimal(value) if isinstance(value, str) else None
        if number is None:
            return value
        self.normalized += value != value.strip()
        return number

    def _read_class(self, value: Any) -> Any:
        name: Any = value
        if isinstance(value, str):
            name = normalize_name(value)
            self.normalized += name != value
        elif isinstance(value, float) and value.is_integer():
            name = int(value)
        return name if not self._names else self._name_of_class(name)

    def _name_of_class(self, value: Any) -> Any:
        """Return the name of a class that is given by name, or by id if names are not numbers."""
        if isinstance(value, (str, int)) and str(value) in self._declared:
            return str(value)
        number: Any = parse_decimal(value) if isinstance(value, str) else value
        if self._numbered and is_number(number) and number in range(self._width):
            return self._names[int(number)]
        return value

    def _split(self, value: Any) -> Any:
        """Return the list in a cell; any other value is returned unchanged."""
        if isinstance(value, tuple):
            return list(value)
        separator = self.settings.separator
        if separator is not None and not isinstance(value, (list, Mapping)):
            parts = value.split(separator) if isinstance(value, str) else [value]
            return [part for part in parts if not is_missing(part)]
        found = parse_list(value) if isinstance(value, str) else None
        return value if found is None else found

    def _read_indicators(self, items: list[Any]) -> Any:
        """Return the classes whose indicator is 1; a tuple if the items are not one 0 or 1 per class."""
        marks = [_mark(item) for item in items]
        self._width = self._width or len(marks)
        if len(marks) != self._width or None in marks:
            return tuple(items)
        if not len(self.ids):
            for number in range(self._width):
                self.ids.assign_id(number)
        return [value for value, mark in zip(self.ids.values[: self._width], marks, strict=True) if mark]

    def encode(self, row: Row, split: str) -> int | float | list[int]:
        """Return the label of a row: a number, or the provisional ids of its classes.

        Raises DataError for a label that is missing, not a number, or of another type than earlier labels,
        and if the numbers of tags and words differ.
        """
        value = row.values[self.column]
        if self.kind == "class" and type(value) is self._type:
            number = self.ids.find(value)
            if number is not None:  # the usual case: checked at its first occurrence
                self.ids.count((number,), split, row)
                return number
        return self._encode(value, row, split)

    def _encode(self, value: Any, row: Row, split: str) -> int | float | list[int]:
        if value is None:
            raise messages.make_missing_error(row.place, self.column, self.settings)
        start, self._start = self._start, self._start or f"{value!r:.40} at {row.place}"
        if self.kind == "number":
            if not is_number(value):
                raise messages.make_number_error(row.place, self.column, value, stated=self._stated)
            number = messages.require_finite(row.place, self.column, value)
            self._whole = self._whole and number.is_integer()
            return number
        items = value if self.kind == "classes" else [value]
        if isinstance(items, tuple):
            raise messages.make_indicators_error(row.place, self.column, list(items), self._width)
        if not isinstance(items, list):
            raise messages.make_list_error(row.place, self.column, value, self.settings)
        if self.kind == "classes":
            self._check_length(len(items), row)
        ids = [self._check_class(item, row, start) for item in items]
        self.ids.count(ids, split, row)
        return ids if self.kind == "classes" else ids[0]

    def _check_length(self, count: int, row: Row) -> None:
        words = row.values[self._companion] if self._companion is not None else None
        if isinstance(words, (list, tuple)) and len(words) != count:
            raise DataError(
                f"{row.place}: {len(words)} {self._companion} but {count} {self.column}; write one for each"
            )

    def _check_class(self, value: Any, row: Row, start: str) -> int:
        if type(value) is self._type and (number := self.ids.find(value)) is not None:
            return number  # checked at its first occurrence
        if not isinstance(value, (str, int)) or value == "":
            raise messages.make_class_error(
                row.place, self.column, value, self.settings, alone=self.kind == "class"
            )
        self._type = self._type or type(value)
        if type(value) is not self._type and not self._stated:
            raise messages.make_mixed_error(row.place, self.column, value, start, self.kind)
        if self._names and value not in self._declared:
            raise messages.make_unnamed_error(row.place, self.column, value, self.settings)
        if isinstance(value, str):
            messages.check_name(row.place, self.column, value, LONGEST_NAME)
        number = self.ids.assign_id(value)
        if number >= MOST_CLASSES and self.settings.min_count is None:
            raise messages.make_too_many_error(self.column, len(self.ids), self.ids.rows + 1)
        return number

    def check(self) -> None:
        """Raise DataError for no classes, as many classes as rows, or classes without training rows."""
        if self.kind == "number":
            return
        if not self.ids.sort_names():
            raise DataError(
                f"{self.column!r} holds no class in any row; fix it, or leave it out with `columns`"
            )
        count = len(self.ids.sort_names())
        if count > MANY_CLASSES and 2 * count > self.ids.rows and not self._names:
            raise messages.make_too_many_error(self.column, count, self.ids.rows)
        untrained = self.ids.find_untrained()
        if untrained:
            raise messages.make_untrained_error(self.column, self.ids, untrained, self.settings)

    def describe(self) -> str:
        """Return a description of the column for the summary, such as `label (2 classes)`."""
        if self.kind == "number":
            asked = f", all whole; write {advise(labels={self.column: 'class'})} if they are classes"
            return f"{self.column} (numbers{asked if self._whole and not self._stated else ''})"
        count = len(self.ids.sort_names())
        classes = f"{count:,} class{'es' if count != 1 else ''}"
        return f"{self.column} ({'lists of ' if self.kind == 'classes' else ''}{classes})"

    @property
    def arrow(self) -> pa.DataType:
        """Arrow type of the encoded column."""
        if self.kind == "number":
            return pa.float64()
        return pa.list_(pa.int64()) if self.kind == "classes" else pa.int64()

    @property
    def feature(self) -> Any:
        """The feature type of the column in Datasets."""
        if self.kind == "number":
            return datasets.Value("float64")
        one = datasets.ClassLabel(names=self.ids.sort_names())
        return datasets.List(one) if self.kind == "classes" else one

    def replace_ids(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the encoded column with provisional ids replaced by final ids."""
        if self.kind == "number":
            return column
        table = pa.array(self.ids.map_to_final(), pa.int64())
        return pa.chunked_array([_replace_ids(chunk, table) for chunk in column.chunks], column.type)


def _replace_ids(chunk: pa.Array, table: pa.Array) -> pa.Array:
    if pa.types.is_list(chunk.type):
        return pa.ListArray.from_arrays(chunk.offsets, table.take(chunk.values))
    return table.take(chunk)


def _convert_to_python(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _infer(values: Sequence[Any]) -> Kind:
    if isinstance(values[0], (list, tuple)):
        return "classes"
    numbers = all(is_number(value) for value in values)
    return "number" if numbers and any(isinstance(value, float) for value in values) else "class"


def _mark(item: Any) -> int | None:
    """Return 0 or 1, also if given as a text, a float or a boolean; otherwise None."""
    number = parse_decimal(item) if isinstance(item, str) else item
    return int(number) if isinstance(number, (int, float)) and number in (0, 1) else None


def _look_like_indicators(lists: Sequence[Any]) -> bool:
    """Return whether lists have equal length, contain only 0 and 1, and some list has repeated values."""
    if not lists or not all(isinstance(one, list) for one in lists):
        return False
    marks = [[_mark(item) for item in one] for one in lists]
    width = {len(one) for one in marks}
    return (
        len(width) == 1
        and all(None not in one for one in marks)
        and any(len({*one}) < len(one) for one in marks)
    )


def _has_lengths_of_words(rows: Sequence[Row], column: str, lists: Sequence[Any]) -> bool:
    """Return whether another column has lists of strings of the same lengths: then these are word tags."""
    for name in rows[0].values.keys() - {column}:
        others = [row.values[name] for row in rows]
        if all(isinstance(other, (list, tuple)) for other in others) and all(
            len(other) == len(one) and all(isinstance(word, str) for word in other)
            for other, one in zip(others, lists, strict=True)
        ):
            return True
    return False


def read_labels(rows: Iterable[Row], labels: Sequence[Label]) -> Iterator[Row]:
    """Yield the rows with parsed labels, so that cleaning steps see classes instead of file cells."""
    readers = [(label.column, label.read) for label in labels]
    for row in rows:
        values = row.values
        for column, read in readers:
            values[column] = read(values[column])
        yield row


def find_labels(
    head: Sequence[Row], named: Mapping[str, LabelColumn], names: Mapping[str, Sequence[str]]
) -> list[Label]:
    """Return the label columns: those named in the recipe, or else those with a usual name.

    `head` are the first rows, from which kinds are detected. Raises DataError when a named column is missing.
    """
    columns = list(head[0].values)
    for column in named:
        if column not in columns:
            raise DataError(f"`labels` names {column!r}, but the columns are {join_names(columns)}")
    usual = [column for column, other in USUAL.items() if column in columns and other in (None, *columns)]
    wanted = dict(named) or {column: LabelColumn() for column in usual}
    labels = [
        Label(
            column,
            settings,
            names.get(column, ()),
            other if (other := USUAL.get(column)) in columns else None,
        )
        for column, settings in wanted.items()
    ]
    for label in labels:
        label.detect_kind(head)
    return labels
