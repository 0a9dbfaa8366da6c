"""Takes the next item of an iterator in another thread while the one before it is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items in order, one ahead; what taking one raises comes after the items before it.

    It pays where both sides leave Python, as tokenizing texts and reading files do.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(lambda: [*islice(items, 1)])
        while found := waiting.result():
            waiting = pool.submit(lambda: [*islice(items, 1)])
            yield found[0]
