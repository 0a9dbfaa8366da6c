"""Stops a training at the first value that is not finite, and does not slow an accelerator down."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch

from hfpipe.errors import StageError

Failure = Callable[[float], StageError]
"""Returns the error to raise, given the value."""

LAG = 4
"""Values of a GPU that are waiting to be read: a loss and a gradient norm for each of two steps."""


class FiniteCheck:
    """Reads each value: on a CPU at once, on a GPU when some others have come after it.

    Reading a value from a GPU waits until all that was queued is computed. So the value is copied to the host
    behind the computation that makes it, and read when that has long been done: in the meantime the host has
    queued the next step. The training stops at the same value; what was computed since then is not kept,
    because `flush` comes before anything is saved.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[torch.Tensor, torch.cuda.Event | None, Failure]] = deque()

    def watch(self, value: torch.Tensor, failure: Failure) -> None:
        """Take a 0-d value. Raises StageError for the first value that is not finite."""
        if value.is_cuda:
            host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            host.copy_(value.detach(), non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._waiting.append((host, copied, failure))
            self._read(LAG)
        else:
            self._waiting.append((value.detach(), None, failure))
            self._read(0)

    def flush(self) -> None:
        """Read what has not been read. Raises StageError for the first value that is not finite."""
        self._read(0)

    def _read(self, left: int) -> None:
        while len(self._waiting) > left:
            tensor, copied, failure = self._waiting.popleft()
            if copied is not None:
                copied.synchronize()
            value = tensor.item()
            if not math.isfinite(value):
                self._waiting.clear()
                raise failure(value)
