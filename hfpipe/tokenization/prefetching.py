"""Computes the next item of an iterator in another thread while the current one is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items in order, computing one ahead; an exception is raised after the preceding items.

    This is useful if both sides release the GIL, such as tokenizing texts and reading files.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(lambda: [*islice(items, 1)])
        while found := waiting.result():
            waiting = pool.submit(lambda: [*islice(items, 1)])
            yield found[0]
