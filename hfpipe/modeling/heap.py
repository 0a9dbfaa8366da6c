"""Keeps freed memory in the process while it trains on a CPU, and closes the gaps in it when they grow.

Gaps are free memory between tensors that the process has touched before. They grow slowly, as passes differ
in shape, and are closed after a forward pass, when most memory is in use. Returning them to the system takes
10 to 50 ms, and zeroing the pages that are touched again about as long. So it is done at each record of the
resident memory; otherwise, if the memory has grown since the last time, in a negligible share of the time.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from hfpipe.modeling.performance import runs_on_cpu

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""
DEFAULT_TRIM_THRESHOLD, DEFAULT_MMAP_MAX = 128 * 1024, 65536
"""Their defaults, in bytes and in number of mappings."""
GROWTH = 1.01
"""Ratio above which gaps are closed: to the largest resident memory so far, which happens at most 70 times
until it has doubled, or to that one pass after the last time."""
SHARE = 0.005
"""Maximum share of the time for closing gaps when the memory is not larger than ever."""
STATM = Path("/proc/self/statm")


class Heap:
    """The memory of this process, as far as the C library's allocator keeps it."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._largest = 0
        self._needed: int | None = None
        """Resident bytes one pass after gaps were closed; None until then."""
        self._next = 0.0
        """Time at which closing gaps again takes no more than its share."""

    def close_gaps(self) -> None:
        """Return free memory to the system if the process has grown."""
        resident = read_resident_bytes()
        self._needed = self._needed or resident
        grown = resident > GROWTH * self._needed and time.monotonic() >= self._next
        if grown or resident > GROWTH * self._largest:
            started = time.monotonic()
            self._library.malloc_trim(0)
            took = time.monotonic() - started
            self._next = started + took / SHARE
            self._largest = max(resident, self._largest)
            self._needed = None


def read_resident_bytes() -> int:
    """Return the resident memory of this process."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def keep_memory(model: nn.Module | None = None) -> Iterator[None]:
    """Keep freed memory in the process during a training, on a CPU with the GNU C library.

    Otherwise the memory of every large tensor is returned to the kernel, which must zero the pages of the
    next one; steps of small models took 6 to 14 % longer. Gaps are closed after the passes of `model`, which
    must not be compiled; compiled passes have one shape and few gaps.
    """
    if not runs_on_cpu() or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        with nullcontext() if model is None else _close_gaps_after_passes(model, Heap(library)):
            yield
    finally:
        library.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        library.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
        library.malloc_trim(0)


@contextmanager
def _close_gaps_after_passes(model: nn.Module, heap: Heap) -> Iterator[None]:
    """Close gaps after each forward pass in training."""

    def hook(called: nn.Module, *_: Any) -> None:
        if called.training:
            heap.close_gaps()

    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
