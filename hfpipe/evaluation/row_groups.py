"""Groups of dependent rows of a split, which have the same value in a column."""

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
    """Return the unit of each row: rows with equal values of `column` share one, rows without a value do not.

    Units are numbered by first occurrence, so that the weights are those of single rows if all values differ.
    """
    if column is None:
        return sample_independent_rows(len(rows))
    numbers: dict[bytes, int] = {}
    units = np.empty(len(rows), dtype=np.int64)
    count = 0
    for position, value in enumerate(_iterate_values(rows, column)):
        found = None if _is_missing(value) else numbers.setdefault(_compute_digest(value), count)
        units[position] = count if found is None else found
        count += units[position] == count
    return Sample(units, column)


def _iterate_values(rows: datasets.Dataset, column: str) -> Iterator[Any]:
    alone = rows.select_columns(column)
    for start in range(0, len(alone), ROWS_AT_ONCE):
        yield from alone[start : start + ROWS_AT_ONCE][column]


def _is_missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _compute_digest(value: Any) -> bytes:
    """Return a digest of 16 bytes, so that the texts of a long split are not held in memory."""
    text = json.dumps(value, sort_keys=True, default=str)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
