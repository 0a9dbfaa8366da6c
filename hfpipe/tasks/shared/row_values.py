"""Values that belong to a row: its label, the size of its text, and values stored at its first example."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hfpipe.errors import DataError


def require_valid_labels(column: str, invalid: Iterable[Any], wanted: str) -> None:
    """Raise DataError at the first invalid label; `wanted` describes the valid ones."""
    for label in invalid:
        raise DataError(f"column {column!r} holds {label}, not {wanted}; drop such rows")


def count_utf8_bytes(texts: Sequence[str]) -> np.ndarray:
    """Return the number of UTF-8 bytes of each text: int64, shape (n,)."""
    return np.array([len(text.encode()) for text in texts], dtype=np.int64)


def place_at_first_examples(values: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Return each row's value at its first example and 0 at its other examples, in order."""
    before = (None, *rows)
    return [0 if row == last else values[row] for row, last in zip(rows, before, strict=False)]
