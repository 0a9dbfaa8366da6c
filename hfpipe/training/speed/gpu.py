"""The GPU of a training process, and its memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hfpipe.distributed.world import get_local_rank
from hfpipe.modeling.performance import is_sharded, runs_on_cpu


@dataclass(frozen=True)
class Device:
    """The device of a training."""

    place: torch.device
    name: str
    """Name that identifies the kind of device."""
    memory: float
    """Bytes."""


def get_gpu() -> Device | None:
    """Return the GPU of this process; None on a CPU, or if the model is sharded over several."""
    if runs_on_cpu() or is_sharded():
        return None
    device = torch.device("cuda", get_local_rank())
    facts = torch.cuda.get_device_properties(device)
    return Device(device, f"{facts.name}, {facts.total_memory} bytes", facts.total_memory)
