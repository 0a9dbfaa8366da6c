"""How the processes of a training are arranged: which read examples of their own, and which share a model.

Data parallel processes each read their own share of a step. The processes of a tensor or context parallel
group compute the same examples together, so that they read the same share. The sizes are those of
Accelerate's ParallelismConfig, which `accelerate launch` passes on in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hfpipe.distributed.world import world_size

USED = "ACCELERATE_USE_PARALLELISM_CONFIG"
PREFIX = "PARALLELISM_CONFIG_"


@dataclass(frozen=True)
class ProcessLayout:
    """The number of processes in each dimension; ranks count tensor parallel processes first."""

    world: int
    """All processes."""
    replicas: int = 1
    """Groups of processes that each hold the whole model between them (HYBRID_SHARD)."""
    shards: int = 1
    """Processes that split weights, gradients and optimizer, if that is stated; else FSDP takes all."""
    tensor: int = 1
    """Processes that split each matrix product (tensor parallel)."""
    context: int = 1
    """Processes that split each sequence (context parallel)."""

    @property
    def together(self) -> int:
        """Processes that compute the same examples."""
        return self.tensor * self.context

    @property
    def readers(self) -> int:
        """Shares of a step: groups of processes that read examples of their own."""
        return self.world // self.together

    @property
    def averaged(self) -> int:
        """Processes over which gradients are averaged, and not summed up by the model itself."""
        return self.world // self.tensor

    @property
    def sharded(self) -> int:
        """Processes over which FSDP splits a model."""
        return (
            self.shards if self.shards > 1 else self.world // self.replicas // self.together
        ) * self.context

    def reader(self, rank: int) -> int:
        """Return the number of the share that a process reads."""
        return rank // self.together

    def counts(self, rank: int) -> bool:
        """Tell whether a process reports its share; the others of its group have the same."""
        return rank % self.together == 0


@dataclass(frozen=True)
class Split:
    """Over how many processes each part of the memory of a training is split."""

    weights: int = 1
    gradients: int = 1
    state: int = 1
    """State of the optimizer."""
    gathers: bool = False
    """Whether the weights of a layer are gathered while it is computed."""


def process_layout(environ: Mapping[str, str] = os.environ) -> ProcessLayout:
    """Return the layout that a launcher set for this process."""
    world = world_size(environ)
    if world == 1 or environ.get(USED, "").lower() != "true":
        return ProcessLayout(world)

    def size(name: str) -> int:
        return int(environ.get(f"{PREFIX}{name}_SIZE", "1"))

    return ProcessLayout(world, size("DP_REPLICATE"), size("DP_SHARD"), size("TP"), size("CP"))
