"""Rows of a split that are read lazily, because many tasks need no columns for scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np


class LazyRows(Mapping[str, Sequence[Any]]):
    """The columns of rows at given positions of a split; all are read at the first access."""

    def __init__(self, split: datasets.Dataset, positions: np.ndarray) -> None:
        self._split = split
        self._positions = positions

    @cached_property
    def _columns(self) -> dict[str, Sequence[Any]]:
        columns: dict[str, Sequence[Any]] = self._split[self._positions]
        return columns

    def __getitem__(self, name: str) -> Sequence[Any]:
        return self._columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self._split.column_names

    def __iter__(self) -> Iterator[str]:
        return iter(self._split.column_names)

    def __len__(self) -> int:
        return len(self._split.column_names)
