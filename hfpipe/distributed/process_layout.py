"""The layout of the processes of a training: which read different examples, and which share a model.

Each data parallel process reads its own part of a step. The processes of a tensor or context parallel group
compute the same examples together, and read the same part. The sizes are those of
Accelerate's ParallelismConfig, which `accelerate launch` passes on in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from hfpipe.distributed.world import get_world_size

USED = "ACCELERATE_USE_PARALLELISM_CONFIG"
PREFIX = "PARALLELISM_CONFIG_"


@dataclass(frozen=True)
class ProcessLayout:
    """The number of processes in each dimension; ranks count tensor parallel processes first."""

    world: int
    """Number of all processes."""
    replicas: int = 1
    """Number of groups of processes that each have a complete copy of the model (HYBRID_SHARD)."""
    shards: int = 1
    """Processes that split weights, gradients and optimizer state; 1 if unset: FSDP then uses all."""
    tensor: int = 1
    """Processes that split each matrix product (tensor parallel)."""
    context: int = 1
    """Processes that split each sequence (context parallel)."""

    @property
    def together(self) -> int:
        """Number of processes that compute the same examples."""
        return self.tensor * self.context

    @property
    def readers(self) -> int:
        """Number of groups of processes that read different examples of a step."""
        return self.world // self.together

    @property
    def averaged(self) -> int:
        """Number of processes over which gradients are averaged, not summed by the model itself."""
        return self.world // self.tensor

    @property
    def sharded(self) -> int:
        """Number of processes over which FSDP splits a model."""
        return (
            self.shards if self.shards > 1 else self.world // self.replicas // self.together
        ) * self.context

    def get_reader(self, rank: int) -> int:
        """Return the index of the part of a step that a process reads."""
        return rank // self.together

    def is_counted(self, rank: int) -> bool:
        """Return whether a process reports its results; the others of its group have the same."""
        return rank % self.together == 0


@dataclass(frozen=True)
class Split:
    """The number of processes over which each part of the memory of a training is split."""

    weights: int = 1
    gradients: int = 1
    state: int = 1
    """State of the optimizer."""
    gathers: bool = False
    """Whether the weights of a layer are gathered for its computation."""


@dataclass(frozen=True)
class Arrangement:
    """The processes of a training that is planned."""

    layout: ProcessLayout
    split: Split = Split()
    cpu: bool = False
    """Whether they train on a CPU."""


def read_process_layout(environ: Mapping[str, str] = os.environ) -> ProcessLayout:
    """Return the layout that a launcher set for this process."""
    world = get_world_size(environ)
    if world == 1 or environ.get(USED, "").lower() != "true":
        return ProcessLayout(world)

    def read_size(name: str) -> int:
        return int(environ.get(f"{PREFIX}{name}_SIZE", "1"))

    return ProcessLayout(
        world, read_size("DP_REPLICATE"), read_size("DP_SHARD"), read_size("TP"), read_size("CP")
    )
