"""Stops a training at the first value that is not finite, without waiting for the accelerator."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import torch

from hfpipe.errors import StageError

Failure = Callable[[float], StageError]
"""Returns the error to raise, given the value."""

LAG = 4
"""Values of a GPU that have not been read yet: a loss and a gradient norm for each of two steps."""


class FiniteCheck:
    """Reads each value: on a CPU immediately, on a GPU a few values later.

    Reading a value from a GPU waits for everything that is queued. So a copy to the host is queued after the
    computation, and read when it has finished; the host queues the next step in the meantime. The training
    stops at the same value. What was computed after it is not kept, because `flush` precedes every save.
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
            self._read_waiting(LAG)
        else:
            self._waiting.append((value.detach(), None, failure))
            self._read_waiting(0)

    def flush(self) -> None:
        """Read the remaining values. Raises StageError for the first value that is not finite."""
        self._read_waiting(0)

    def _read_waiting(self, left: int) -> None:
        while len(self._waiting) > left:
            tensor, copied, failure = self._waiting.popleft()
            if copied is not None:
                copied.synchronize()
            value = tensor.item()
            if not math.isfinite(value):
                self._waiting.clear()
                raise failure(value)
