"""The heap of a training on a CPU: what is kept for the next pass, and what is returned to the system.

Each measurement has a process of its own. What other tests left in the heap would count. After a failed
allocation, and a test makes some fail, the C library serves a thread from another arena, which keeps no large
tensors.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch import nn

from hfpipe.modeling import heap
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
    model = nn.Identity()
    with keep_memory(model):
        model(torch.ones(1))  # closes the gaps of the imports
        resident = [read_resident_bytes()]
        tensors = allocate()
        del tensors
        resident.append(read_resident_bytes())
    return [*resident, read_resident_bytes()]


def measure_gaps() -> list[int]:
    model = nn.Identity()
    with keep_memory(model):
        model(torch.ones(1))
        resident = [read_resident_bytes()]
        tensors = allocate(16, SIZE // 16)
        kept = tensors[1::2]
        del tensors
        model(torch.ones(1))
        resident.append(read_resident_bytes())
        tensors = allocate(8, SIZE // 16)
        del tensors
        model(torch.ones(1))
        resident.append(read_resident_bytes())
        assert len(kept) == 8
    return resident


def measure_old_gaps() -> list[int]:
    """Fill and leave a gap in each pass, until it is closed; returns the memory after each pass."""
    heap.SHARE = 0.02  # a few seconds
    model, resident = nn.Identity(), []
    with keep_memory(model):
        allocate(4)
        model(torch.ones(1))  # closes the gap, as there was never so much memory
        model(torch.ones(1))
        deadline = time.monotonic() + 300
        while not resident or resident[-1] > resident[0] - 0.9 * SIZE:
            assert time.monotonic() < deadline
            allocate()
            model(torch.ones(1))
            resident.append(read_resident_bytes())
            time.sleep(0.05)
    return resident


def test_memory_of_a_pass_is_kept_and_returned_after_the_training() -> None:
    before, kept, returned = measure_alone(measure_one_pass)
    assert kept - before > 0.9 * SIZE
    assert returned - before < 0.1 * SIZE


def test_gaps_are_closed_when_the_memory_is_larger_than_ever() -> None:
    before, closed, again = measure_alone(measure_gaps)
    assert 0.4 * SIZE < closed - before < 0.6 * SIZE
    assert (GROWTH - 1) * closed < SIZE  # so that it had grown
    assert again - closed > 0.4 * SIZE  # not more than before, and kept


def test_gaps_that_come_back_are_closed_after_some_time() -> None:
    passes = measure_alone(measure_old_gaps)
    assert len(passes) > 2  # not at once
    assert passes[0] - passes[-1] > 0.9 * SIZE
