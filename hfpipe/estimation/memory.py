"""Estimates the memory of one process of a training: its share of the model, and its own activations.

On a GPU, activations are those of a formula, which is too high for a compiled model. On a CPU they are those
of a traced pass, and the process itself is counted, because what can run out is the memory of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from hfpipe.distributed.process_layout import Arrangement, Split
from hfpipe.encoding.sampler import cut_by_length
from hfpipe.estimation.traced_pass import Pass, trace_pass
from hfpipe.training.arguments import CHECKPOINTINGS, compute_shares, expects_bf16
from hfpipe.training.cost import (
    FLOAT,
    Shape,
    compute_optimizer_state,
    count_gathered_weights,
    estimate_activations,
)
from hfpipe.training.speed.choice import LEAST_PASSES

SEQ2SEQ = "AutoModelForSeq2SeqLM"
LIBRARIES = 600e6
"""Resident bytes of a process on a CPU before there is a model: Python, torch, Transformers, and the mapped
data."""
HEAP = 1.25
"""Ratio of the heap of a process on a CPU to the tensors in it, because the C library's allocator leaves
gaps: 1.20 to 1.31 for BERT 4 × 256 and GPT-2 6 × 384."""


@dataclass(frozen=True)
class Work:
    """What a training computes, and where."""

    auto_class: str
    config: PretrainedConfig
    adapter: Mapping[str, Any] | None
    training: Mapping[str, Any]
    length: int
    """Tokens of a row at most."""
    predicted: float
    """Share of the tokens whose vocabulary logits are computed."""
    packed: bool
    steps: int | None
    """Optimizer steps, None if they are not known."""
    processes: Arrangement


def estimate_memory(work: Work, shape: Shape) -> dict[str, float]:
    """Return part → bytes of one process at the peak of a step.

    There is no `optimizer state` if that of the optimizer is not known.
    """
    split = work.processes.split
    state = compute_optimizer_state(shape, work.training.get("optim"))
    parts = {
        "weights": shape.parameters * FLOAT / split.weights,
        "gradients": shape.trained * FLOAT / split.gradients,
        "optimizer state": None if state is None else state / split.state,
        "gradient buckets": _compute_buckets(work, shape),
        "gathered weights": count_gathered_weights(shape) * FLOAT if split.gathers else None,
        "activations": _estimate_activations(work, shape) / work.processes.layout.context,
    }
    found = {name: size for name, size in parts.items() if size is not None}
    if work.processes.cpu:
        found["libraries and gaps"] = LIBRARIES + (HEAP - 1) * sum(found.values())
    return found


def _compute_buckets(work: Work, shape: Shape) -> float | None:
    """Return the bytes in which DistributedDataParallel collects gradients, None where it is not used."""
    whole = work.processes.split == Split() and work.processes.layout.averaged > 1
    return float(shape.trained * FLOAT) if whole else None


def _count_rows(work: Work) -> int:
    """Return the rows of a forward pass: fewer than those of a micro-batch where these are cut by length."""
    rows = compute_shares(work.training, work.processes.layout.readers).micro
    if work.packed or not work.processes.cpu or work.processes.split != Split():
        return rows
    sides = 2 if work.auto_class == SEQ2SEQ else 1  # source and target count
    return max(map(len, cut_by_length(np.full(rows, sides * work.length))))


def _estimate_activations(work: Work, shape: Shape) -> float:
    rows = _count_rows(work)
    recomputed = any(work.training.get(name) for name in CHECKPOINTINGS)
    bf16 = _uses_bf16(work)
    if work.processes.cpu:
        whole = work.processes.split == Split()
        computed = Pass(rows, work.length, work.predicted, not work.packed, bf16, recomputed, chunked=whole)
        traced = trace_pass(work.auto_class, work.config, work.adapter, computed)
        if traced is not None:
            return float(traced)
    return estimate_activations(
        shape,
        rows,
        work.length,
        work.predicted,
        bf16=bf16,
        held=1 / work.processes.split.weights,
        recomputed=recomputed,
    )


def _uses_bf16(work: Work) -> bool:
    """Return whether products will probably be in bfloat16; by default not in a short training on a CPU."""
    passes = (work.steps or LEAST_PASSES) * work.training.get("gradient_accumulation_steps", 1)
    short = work.training.get("bf16", "auto") == "auto" and passes < LEAST_PASSES
    return expects_bf16(work.training) and not (work.processes.cpu and short)
