"""The heap of a training on a CPU: what is kept for the next pass, and what is returned to the system.

Each measurement has a process of its own. What other tests left in the heap would count. After a failed
allocation, and a test makes some fail, the C library serves a thread from another arena, which keeps no large
tensors.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from hfpipe.modeling.heap import GROWTH, keep_memory, read_resident_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of the GNU C library"),
]

SIZE = 2**28
"""Bytes of a tensor that is larger than anything that imports leave in the heap."""


def allocate(number: int = 1, each: int = SIZE) -> list[torch.Tensor]:
    return [torch.ones(each // 4) for _ in range(number)]


def measure_alone(measure: Callable[[], list[int]]) -> list[int]:
    """Return what `measure` returns in a new process: resident bytes, in the order of their measurement."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure).result()


def measure_one_pass() -> list[int]:
    with keep_memory() as heap:
        assert heap is not None
        heap.close_gaps()
        resident = [read_resident_bytes()]
        tensors = allocate()
        del tensors
        resident.append(read_resident_bytes())
    return [*resident, read_resident_bytes()]


def measure_gaps() -> list[int]:
    with keep_memory() as heap:
        assert heap is not None
        heap.close_gaps()
        resident = [read_resident_bytes()]
        tensors = allocate(16, SIZE // 16)
        kept = tensors[1::2]
        del tensors
        heap.close_gaps()
        resident.append(read_resident_bytes())
        tensors = allocate(8, SIZE // 16)
        del tensors
        heap.close_gaps()
        resident.append(read_resident_bytes())
        assert len(kept) == 8
    return resident


def test_memory_of_a_pass_is_kept_and_returned_after_the_training() -> None:
    before, kept, returned = measure_alone(measure_one_pass)
    assert kept - before > 0.9 * SIZE
    assert returned - before < 0.1 * SIZE


def test_gaps_are_closed_when_the_memory_has_grown_and_only_then() -> None:
    before, closed, again = measure_alone(measure_gaps)
    assert 0.4 * SIZE < closed - before < 0.6 * SIZE
    assert (GROWTH - 1) * closed < SIZE  # so that it had grown
    assert again - closed > 0.4 * SIZE  # not more than before, and kept
