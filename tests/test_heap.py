"""The heap of a training on a CPU: what is kept for the next pass, and what is returned to the system."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from hfpipe.modeling.heap import GROWTH, Heap, keep_memory, read_resident_bytes

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of the GNU C library")

SIZE = 2**28
"""Bytes of a tensor that is larger than anything that tests leave in the heap."""


def allocate(number: int = 1, each: int = SIZE) -> list[torch.Tensor]:
    return [torch.ones(each // 4) for _ in range(number)]


@contextmanager
def kept_memory() -> Iterator[Heap]:
    """Keep memory, without gaps of earlier tests."""
    with keep_memory() as heap:
        assert heap is not None
        heap.close_gaps()
        yield heap


def test_memory_of_a_pass_is_kept_and_returned_after_the_training() -> None:
    with kept_memory():
        before = read_resident_bytes()  # gaps of earlier tests are closed now
        tensors = allocate()
        del tensors
        assert read_resident_bytes() - before > 0.9 * SIZE
    assert read_resident_bytes() - before < 0.1 * SIZE


def test_gaps_are_closed_when_the_memory_has_grown_and_only_then() -> None:
    with kept_memory() as heap:
        before = read_resident_bytes()
        tensors = allocate(16, SIZE // 16)
        kept = tensors[1::2]
        del tensors
        heap.close_gaps()
        closed = read_resident_bytes()
        assert 0.4 * SIZE < closed - before < 0.6 * SIZE
        assert (GROWTH - 1) * closed < SIZE  # so that it had grown
        tensors = allocate(8, SIZE // 16)
        del tensors
        heap.close_gaps()
        assert read_resident_bytes() - closed > 0.4 * SIZE  # not more than before, and kept
        assert len(kept) == 8
