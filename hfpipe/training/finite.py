"""Stops a training at the first value that is not finite, and does not slow an accelerator down."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from hfpipe.errors import StageError

Failure = Callable[[float], StageError]
"""Returns the error to raise, given the value."""

LAG = 4
"""Values of an accelerator that are waiting to be read: a loss and a gradient norm for each of two steps."""


class FiniteCheck:
    """Reads each value: on a CPU at once, on an accelerator when some others have come after it.

    Reading a value from an accelerator waits until everything before it is computed. A little later it is
    there already, and in the meantime the host has queued the next step. The training stops at the same
    value; what was computed since then is not kept, because `flush` comes before anything is saved.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[torch.Tensor, Failure]] = deque()

    def watch(self, value: torch.Tensor, failure: Failure) -> None:
        """Take a 0-d value. Raises StageError for the first value that is not finite."""
        self._waiting.append((value.detach(), failure))
        self._read(0 if value.device.type == "cpu" else LAG)

    def flush(self) -> None:
        """Read what has not been read. Raises StageError for the first value that is not finite."""
        self._read(0)

    def _read(self, left: int) -> None:
        while len(self._waiting) > left:
            value, failure = self._waiting.popleft()
            if not torch.isfinite(value):
                self._waiting.clear()
                raise failure(value.item())
