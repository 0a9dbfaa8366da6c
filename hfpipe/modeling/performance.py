"""Performance settings for this machine, which change results only by rounding."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.trainer_utils import unwrap_peft_model

from hfpipe.distributed.world import get_local_world_size

MOST_WORKERS = 4
"""Maximum number of data loader workers per accelerator; each prepares several hundred examples per
second."""


def supports_bf16() -> bool:
    """Return whether the processor supports bfloat16 matrix products natively."""
    if runs_on_cpu():
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def is_compiling_worthwhile(tokens: int) -> bool:
    """Return whether training on this many tokens makes up for the minute of torch.compile on a GPU."""
    return tokens >= 50_000_000 and torch.utils._triton.has_triton()


def compile_model(model: Any, *, static: bool, mode: str = "default") -> None:
    """Compile a model in place, in a mode of torch.compile, which preserves the names of the weights.

    With `static` batches of one shape the whole model is compiled, otherwise only its layers, because the
    shapes in the head vary.
    """
    if static:
        model.compile(dynamic=False, mode=mode)
    else:
        unwrap_peft_model(model).base_model.compile(mode=mode)


def compile_loss(loss: Callable[..., Any], mode: str = "default") -> Callable[..., Any]:
    """Return a loss compiled for batches of one shape."""
    compiled = torch.compile(loss, dynamic=False, mode=mode)

    def compute(*arguments: Any) -> Any:
        with warnings.catch_warnings():
            # Dynamo reads `.grad` of the logits, which are not a leaf tensor and have none.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
            return compiled(*arguments)

    return compute


@contextmanager
def run_uncompiled(model: Any) -> Iterator[None]:
    """Run a compiled model uncompiled, for batches of many shapes, as in evaluation."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        yield
    finally:
        model._compiled_call_impl = compiled


def count_loader_workers() -> int:
    """Return the number of data loader workers: several for an accelerator, none on a CPU."""
    if runs_on_cpu():
        return 0
    return max(1, min(MOST_WORKERS, count_cores() // get_local_world_size()))


def count_cores() -> int:
    """Return the number of cores available to this process, which may be less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_sharded() -> bool:
    """Return whether Accelerate distributes weights or examples in another way than data parallelism."""
    ways = ("FSDP", "DEEPSPEED", "PARALLELISM_CONFIG")
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ways)


def runs_on_cpu() -> bool:
    """Return whether there is no accelerator, or Accelerate is configured to use the CPU."""
    return (
        os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        or not torch.cuda.is_available()
    )
