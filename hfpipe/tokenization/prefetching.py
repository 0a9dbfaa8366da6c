"""Computes the next items in other threads while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield the items in order, computing one ahead; an exception is raised after the preceding items.

    This is useful if both sides release the GIL, such as tokenizing texts and reading files.
    """
    for found in map_ahead(lambda _: [*islice(items, 1)], repeat(None), threads=1):
        if not found:
            return
        yield found.pop()


def map_ahead(function: Callable[[S], T], inputs: Iterable[S], *, threads: int) -> Iterator[T]:
    """Yield the result for each input in order, computing the next ones in threads meanwhile.

    An exception is raised after the preceding results. With several threads, the function must allow that
    they call it at the same time, and one more result is ahead, so that no thread waits for the caller.
    """
    ahead = threads if threads == 1 else threads + 1
    left = iter(inputs)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, each) for each in islice(left, ahead))
        while waiting:
            found = waiting.popleft().result()
            waiting.extend(pool.submit(function, each) for each in islice(left, 1))
            yield found
            del found  # else it would be kept while the caller waits for the next one
