"""Lists of ids of different lengths, stored in two arrays without a Python object per id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np


class Ragged(Sequence[np.ndarray]):
    """Rows of integers, concatenated in one array; behaves like a list of arrays."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        """Store the integers of all rows, int32 (total,), and the row boundaries, int64 (rows + 1,)."""
        self.values = values
        self.offsets = offsets

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> Ragged:
        """Return the rows with these lengths, int64 (rows,), that are concatenated in `values`."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int] | np.ndarray]) -> Ragged:
        """Return a `Ragged` of lists or arrays of integers."""
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        lengths = np.array([len(array) for array in arrays], dtype=np.int64)
        return cls.from_lengths(np.concatenate(arrays or [np.empty(0, dtype=np.int32)]), lengths)

    @property
    def lengths(self) -> np.ndarray:
        """Number of integers in each row, int64 (rows,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        bounds = self.offsets.tolist()
        return (self.values[start:end] for start, end in pairwise(bounds))

    @overload
    def __getitem__(self, place: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, place: slice) -> Ragged: ...
    def __getitem__(self, place: int | slice) -> np.ndarray | Ragged:
        if isinstance(place, slice):
            return Ragged.from_rows([self[each] for each in range(*place.indices(len(self)))])
        place = range(len(self))[place]
        return self.values[self.offsets[place] : self.offsets[place + 1]]

    def add_around(self, before: Sequence[int], after: Sequence[int]) -> Ragged:
        """Return the rows with the same integers added before and after each."""
        around = len(before) + len(after)
        offsets = self.offsets + around * np.arange(len(self.offsets))
        values = np.empty(len(self.values) + around * len(self), dtype=self.values.dtype)
        inside = np.ones(len(values), dtype=bool)
        for place, number in enumerate(before):
            values[offsets[:-1] + place], inside[offsets[:-1] + place] = number, False
        for place, number in enumerate(reversed(after), 1):
            values[offsets[1:] - place], inside[offsets[1:] - place] = number, False
        values[inside] = self.values[self.offsets[0] : self.offsets[-1]]
        return Ragged(values, offsets - offsets[0])
