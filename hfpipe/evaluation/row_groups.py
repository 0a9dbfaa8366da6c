"""Which rows of a split depend on one another, because they have the same value in a column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import datasets
import numpy as np

from hfpipe.encoding.encoded import ROWS_AT_ONCE
from hfpipe.metrics.resampling import Sample, sample_independent_rows


def group_rows(rows: datasets.Dataset, column: str | None) -> Sample:
    """Return the unit of each row: equal values of `column` are one, and a row without a value is its own.

    Units are numbered as they come, so that where all values differ the weights are those of single rows.
    """
    if column is None:
        return sample_independent_rows(len(rows))
    numbers: dict[bytes, int] = {}
    units = np.empty(len(rows), dtype=np.int64)
    count = 0
    for position, value in enumerate(_values(rows, column)):
        found = None if _is_missing(value) else numbers.setdefault(_digest(value), count)
        units[position] = count if found is None else found
        count += units[position] == count
    return Sample(units, column)


def _values(rows: datasets.Dataset, column: str) -> Iterator[Any]:
    alone = rows.select_columns(column)
    for start in range(0, len(alone), ROWS_AT_ONCE):
        yield from alone[start : start + ROWS_AT_ONCE][column]


def _is_missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _digest(value: Any) -> bytes:
    """Return 16 bytes that equal values share: texts of a long split are not held in memory."""
    text = json.dumps(value, sort_keys=True, default=str)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
