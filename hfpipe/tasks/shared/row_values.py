"""Values that the examples of a row share: the size of its text, and values stored at its first example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def count_utf8_bytes(texts: Sequence[str]) -> np.ndarray:
    """Return the number of UTF-8 bytes of each text: int64, shape (n,)."""
    return np.array([len(text.encode()) for text in texts], dtype=np.int64)


def place_at_first_examples(values: Sequence[int], rows: Sequence[int]) -> list[int]:
    """Return each row's value at its first example and 0 at its other examples, in order."""
    before = (None, *rows)
    return [0 if row == last else values[row] for row, last in zip(rows, before, strict=False)]
