"""Checks that numeric training arguments are finite and within their bounds."""

from __future__ import annotations

from math import isfinite
from typing import Any

_POSITIVE = ("learning_rate", "num_train_epochs", "eval_steps", "save_steps", "logging_steps", "ddp_timeout")
_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "save_total_limit",
    "torch_empty_cache_steps",
    "dataloader_prefetch_factor",
    "ddp_bucket_cap_mb",
)
_BELOW_ONE = ("adam_beta1", "adam_beta2", "label_smoothing_factor")
_WHOLE_OR_SHARE = ("eval_steps", "save_steps", "logging_steps", "warmup_steps")
"""Arguments that are a number of steps from 1 on, and a fraction of all steps below 1."""


def describe_number_problem(key: str, value: float, default: Any) -> str | None:
    """Return why a number is invalid for an argument, or None.

    A negative default, such as that of `max_steps`, means "not set" in Transformers and is allowed.
    """
    if isinstance(default, int) and default < 0 and value == default:
        return None
    if key in _POSITIVE and value <= 0:
        return f"must be more than 0, got {value!r}"
    least = 1 if key in _AT_LEAST_ONE else 0
    if value < least:
        return f"must be at least {least}, got {value!r}"
    if key in _BELOW_ONE and value >= 1:
        return f"must be less than 1, got {value!r}"
    if key in _WHOLE_OR_SHARE and value > 1 and value != int(value):
        return f"must be a whole number of steps, or a fraction of all steps below 1, got {value!r}"
    return None


def find_not_finite(value: Any) -> float | None:
    """Return the first number in a value, at any depth, that is NaN or infinite."""
    if isinstance(value, float):
        return None if isfinite(value) else value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in parts if (found := find_not_finite(part)) is not None), None)
