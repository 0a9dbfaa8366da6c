"""Finds the settings of a training that have no effect on this machine or with these data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers.utils.import_utils import is_torch_tf32_available

from hfpipe.modeling.performance import runs_on_cpu

_ON_GPU = {
    "fp16": "weights and sums are float32",
    "dataloader_pin_memory": "memory is pinned only for copies to a GPU",
    "torch_empty_cache_steps": "the cache is on the GPU",
    "use_liger_kernel": "Liger's kernels are written for GPUs",
}
"""Argument → why it has no effect without a GPU."""
_SEVERAL = (
    "ddp_find_unused_parameters",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_static_graph",
    "ddp_timeout",
)
_EVALUATION = (
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "per_device_eval_batch_size",
    "metric_for_best_model",
    "greater_is_better",
)


def find_ineffective_settings(training: Mapping[str, Any], *, validated: bool, alone: bool) -> Iterator[str]:
    """Yield a line for each setting in the recipe that has no effect.

    `validated` is whether there is a validation split, `alone` whether there is a single process.
    """
    reasons: dict[str, str] = {}
    if runs_on_cpu():
        reasons |= {key: f"there is no GPU; {why}" for key, why in _ON_GPU.items() if training.get(key)}
    if not is_torch_tf32_available():
        reasons["tf32"] = "it needs an NVIDIA GPU of the Ampere generation or newer"
    if alone:
        reasons |= dict.fromkeys(_SEVERAL, "a single process trains")
    if not validated:
        reasons |= dict.fromkeys(_EVALUATION, "there is no validation split")
    if training.get("max_steps", -1) > 0:
        reasons["num_train_epochs"] = "max_steps sets the length of the training"
    yield from (_format_setting(training, key, why) for key, why in reasons.items() if key in training)


def _format_setting(training: Mapping[str, Any], key: str, why: str) -> str:
    value = training[key]
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"training.{key}: {shown} has no effect here: {why}"
