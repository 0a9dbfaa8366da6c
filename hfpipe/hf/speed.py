"""What makes this machine fast: settings that change seconds, not results beyond rounding."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers.trainer_utils import unwrap_peft_model


def bf16_pays() -> bool:
    """Tell whether the processor multiplies bfloat16 natively."""
    if on_cpu():
        return bool(torch.cpu._is_amx_tile_supported())  # AVX-512 alone was five times as slow as float32
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def compiling_pays(tokens: int) -> bool:
    """Tell whether a training of so many tokens earns back the minute that torch.compile takes.

    On the CPU it does not: eager and compiled steps of a small ModernBERT took the same time.
    """
    return not on_cpu() and tokens >= 50_000_000 and torch.utils._triton.has_triton()


def compile_body(model: Any) -> None:
    """Compile the layers in place, which keeps the names of the weights; the head sees varying shapes."""
    unwrap_peft_model(model).base_model.compile()


def on_cpu() -> bool:
    """Tell whether there is no accelerator, or Accelerate was told to leave it."""
    return (
        os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        or not torch.cuda.is_available()
    )
