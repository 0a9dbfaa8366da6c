"""Stops all processes of a training after the same step when any of them has received a signal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from hfpipe.interruption import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator


class AgreedStop:
    """Shares a stop request of any process with all processes, which know it at the end of the step.

    The processes sum the targets of each step anyway, and add the stop request to the same message. A GPU
    copies the sum to the host while it computes the step.
    """

    def __init__(self, request: StopRequest, accelerator: Accelerator) -> None:
        self.request, self._accelerator = request, accelerator
        self._request: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def sum_counts(self, counts: torch.Tensor, together: int = 1) -> torch.Tensor:
        """Return the sum of a tensor of counts over all processes, on their device.

        Groups of `together` processes have the same examples, which are counted once. Must be called in every
        process at the beginning of each step, because requests are summed too.
        """
        asked = counts.new_tensor([int(self.request.number is not None)])
        mine = torch.cat([counts.reshape(-1), asked]).to(self._accelerator.device, non_blocking=True)
        summed = self._accelerator.reduce(mine, reduction="sum")
        self._keep_request(summed[-1:])
        found = summed[:-1].reshape(counts.shape)
        return found / together if found.is_floating_point() else found // together

    def _keep_request(self, asked: torch.Tensor) -> None:
        if not asked.is_cuda:
            self._request = asked
            return
        self._request = torch.empty(asked.shape, dtype=asked.dtype, pin_memory=True)
        self._request.copy_(asked, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()

    def get_agreed_signal(self) -> int | None:
        """Return the signal that stops the training after this step, None in all processes without one."""
        if self._accelerator.num_processes == 1:
            return self.request.number
        if self._copied is not None:
            self._copied.synchronize()
        if self._request is None or not self._request.item():
            return None
        return self.request.number or signal.SIGTERM  # requested elsewhere; the signal is unknown here


def ignore_signals(request: StopRequest, _: int) -> None:
    """Let a data loader worker, in which torch handles SIGTERM, survive until the end of the step."""
    request.outlive()


class SaveWhenAsked(TrainerCallback):
    """Saves a checkpoint after the step before which the processes were requested to stop."""

    def __init__(self, stop: AgreedStop) -> None:
        self._stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._stop.get_agreed_signal() is not None:
            control.should_save = True
