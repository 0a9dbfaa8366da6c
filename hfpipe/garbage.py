"""Runs Python's garbage collector less often while rows are processed; they contain no reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 100_000
"""Allocations between two runs of the garbage collector."""


@contextmanager
def collect_garbage_rarely() -> Iterator[None]:
    """Run Python's garbage collector less often.

    It looks at all objects of the imported libraries, which takes a tenth of the time of a data set, and of
    an encoding.
    """
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], ALLOCATIONS) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
