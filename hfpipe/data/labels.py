"""Labels: classes with their ids, lists of classes, and numbers; checked row by row before any training."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa

from hfpipe.data.rows import Row, listed
from hfpipe.data.split import TRAIN
from hfpipe.errors import DataError

Kind = Literal["class", "classes", "number"]
USUAL: dict[str, str | None] = {"label": None, "labels": None, "tags": "words"}
"""Columns that are labels unless the recipe says otherwise → the column they need beside them, one a word."""


class Label:
    """One column of labels: gives classes provisional ids as they come, and final ones at the end."""

    def __init__(
        self, column: str, kind: Kind | None, names: Sequence[str] = (), beside: str | None = None
    ) -> None:
        self.column = column
        self.kind = kind
        self.beside = beside
        self._order = list(names)
        self._ids: dict[str | int | bool, int] = {}
        self._first: dict[int, Row] = {}
        self._counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._type: type | None = None
        self._start = ""

    def encode(self, row: Row, split: str) -> int | float | list[int]:
        """Return the row's label: a number, or provisional ids of its classes.

        Raises DataError for a label that is missing, not a number, or of another type than those before,
        and for tags that are not as many as the words.
        """
        value: Any = row.values[self.column]
        if isinstance(value, (np.generic, np.ndarray)):
            value = value.tolist()
        if value is None:
            raise DataError(
                f"{row.place}: {self.column!r} is missing; fill it in, or drop such rows with "
                f"`clean: [{{drop: {{{self.column}: [null]}}}}]`"
            )
        if not self._start:
            self._start = f"{value!r:.40} at {row.place}"
            self.kind = self.kind or _kind(value)
        if self.kind == "number":
            return self._number(value, row)
        if self.kind == "classes":
            if not isinstance(value, (list, tuple)):
                raise self._mixed(value, row)
            self._check_beside(len(value), row)
            return [self._id(item, row, split) for item in value]
        return self._id(value, row, split)

    def _check_beside(self, count: int, row: Row) -> None:
        words = row.values[self.beside] if self.beside is not None else None
        if isinstance(words, (list, tuple)) and len(words) != count:
            raise DataError(
                f"{row.place}: {len(words)} {self.beside} but {count} {self.column}; write one for each"
            )

    def _number(self, value: Any, row: Row) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self._mixed(value, row) from None
        if not math.isfinite(number):
            raise DataError(f"{row.place}: {self.column!r} is {number}; mend the row or take it out")
        return number

    def _id(self, value: Any, row: Row, split: str) -> int:
        self._type = self._type or type(value)
        if type(value) is not self._type or not isinstance(value, (str, int)):
            raise self._mixed(value, row)
        number = self._ids.setdefault(value, len(self._ids))
        self._first.setdefault(number, row)
        self._counts[split][number] += 1
        return number

    def _mixed(self, value: Any, row: Row) -> DataError:
        return DataError(
            f"{row.place}: {self.column!r} is {value!r:.40} ({type(value).__name__}), but "
            f"{self._start}; write all alike, or say what it holds with "
            f"`labels: {{{self.column}: class | classes | number}}`"
        )

    def classes(self) -> list[str]:
        """Return the class names in the order of their final ids: as the source has them, or sorted."""
        return [str(value) for value in self._sorted()]

    def _sorted(self) -> list[Any]:
        known = {name: place for place, name in enumerate(self._order)}
        return sorted(self._ids, key=lambda value: (known.get(str(value), len(known)), value))

    def check(self) -> None:
        """Raise DataError when there is no class at all, or one in a held-out split that train lacks."""
        if self.kind != "number" and not self._ids:
            raise DataError(
                f"{self.column!r} holds no class in any row; mend it, or leave it out with `columns`"
            )
        if TRAIN not in self._counts:
            return
        train = self._counts[TRAIN]
        for split, counts in self._counts.items():
            for value, number in self._ids.items():
                if counts[number] and not train[number]:
                    raise DataError(
                        f"{self._first[number].place}: class {value!r} of {self.column!r} is only in {split} "
                        f"({counts[number]:,} rows), never in train; add training rows, or drop it with "
                        f"`clean: [{{drop: {{{self.column}: [{value}]}}}}]`"
                    )

    @property
    def arrow(self) -> pa.DataType:
        """Type of the encoded column."""
        if self.kind == "number":
            return pa.float64()
        return pa.list_(pa.int64()) if self.kind == "classes" else pa.int64()

    @property
    def feature(self) -> Any:
        """The column's type as Datasets writes it."""
        if self.kind == "number":
            return datasets.Value("float64")
        one = datasets.ClassLabel(names=self.classes())
        return datasets.List(one) if self.kind == "classes" else one

    def final(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the encoded column with final ids in place of provisional ones."""
        if self.kind == "number":
            return column
        place = {value: number for number, value in enumerate(self._sorted())}
        table = pa.array([place[value] for value in self._ids], pa.int64())
        return pa.chunked_array([_renumber(chunk, table) for chunk in column.chunks], column.type)


def _renumber(chunk: pa.Array, table: pa.Array) -> pa.Array:
    if pa.types.is_list(chunk.type):
        return pa.ListArray.from_arrays(chunk.offsets, table.take(chunk.values))
    return table.take(chunk)


def _kind(value: Any) -> Kind:
    if isinstance(value, (list, tuple)):
        return "classes"
    return "number" if isinstance(value, float) else "class"


def find_labels(
    columns: Sequence[str], named: Mapping[str, Kind], names: Mapping[str, Sequence[str]]
) -> list[Label]:
    """Return the label columns: those named in the recipe, or else the usual ones that are there.

    Raises DataError when a column named is not there.
    """
    for column in named:
        if column not in columns:
            raise DataError(f"`labels` names {column!r}, but the columns are {listed(columns)}")
    wanted: dict[str, Kind | None] = dict(named) or {
        column: None for column, beside in USUAL.items() if column in columns and beside in (None, *columns)
    }
    return [
        Label(
            column, kind, names.get(column, ()), beside if (beside := USUAL.get(column)) in columns else None
        )
        for column, kind in wanted.items()
    ]
