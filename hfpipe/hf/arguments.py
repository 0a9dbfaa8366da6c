"""`training:` of a recipe → TrainingArguments of this machine, its step shared out over the processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hfpipe.errors import StageError
from hfpipe.hf.batches import Shares, share_out
from hfpipe.hf.loading import one_line
from hfpipe.hf.speed import bf16_pays, compiling_pays, on_cpu
from hfpipe.recipe import budget

OWN = ("budget", "bf16", "compile")
"""Words of `training:` that are hfpipe's own, or mean more than TrainingArguments lets them."""
EPOCHS = 3.0
"""TrainingArguments' own default."""
DEFAULTS: dict[str, Any] = {
    "logging_steps": 0.02,
    "logging_nan_inf_filter": False,
    "save_strategy": "steps",
    "save_steps": 0.2,
    "save_total_limit": 2,
    "report_to": "none",
    "ddp_find_unused_parameters": False,
}
"""Where hfpipe starts from another value than TrainingArguments: fractions are of all steps."""
EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 0.2, "per_device_eval_batch_size": 64}
"""Further defaults where there is a validation split."""


@dataclass(frozen=True)
class Course:
    """What decides the length and the cost of a training."""

    shares: Shares
    steps: int
    bf16: bool
    compiled: bool


def shares_of(training: Mapping[str, Any]) -> Shares:
    """Return how a step is shared out over the processes there are."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_device = training.get("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
    accumulation = training.get("gradient_accumulation_steps", TrainingArguments.gradient_accumulation_steps)
    return share_out(per_device, accumulation, world)


def steps_of(training: Mapping[str, Any], examples: int, tokens: int, total: int) -> int | None:
    """Return the optimizer steps a recipe asks for, or None when its budget is a time.

    `examples` and `tokens` are those of an epoch, `total` the examples of a step.
    """
    epoch = -(-examples // total)
    if "budget" not in training:
        steps = training.get("max_steps", -1)
        return steps if steps > 0 else max(1, round(epoch * training.get("num_train_epochs", EPOCHS)))
    wanted = budget.parse(training["budget"])
    if wanted.tokens is not None:
        return max(1, -(-wanted.tokens * examples // (tokens * total)))
    if wanted.epochs is not None:
        return max(1, round(epoch * wanted.epochs))
    return wanted.steps


def precision(training: Mapping[str, Any]) -> bool:
    """Return whether to train in bfloat16: asked for, or by default where the processor has it."""
    wanted = training.get("bf16", "auto")
    return bf16_pays() and not training.get("fp16", False) if wanted == "auto" else bool(wanted)


def compiled(training: Mapping[str, Any], tokens: int) -> bool:
    """Return whether to compile: asked for, or where the training is long enough to earn it back."""
    wanted = training.get("compile", "auto")
    return compiling_pays(tokens) if wanted == "auto" else bool(wanted)


def arguments(
    training: Mapping[str, Any], folder: Path, seed: int, course: Course, *, validated: bool, early: bool
) -> TrainingArguments:
    """Return the TrainingArguments of one process. Raises StageError when Transformers refuses them."""
    given = {name: value for name, value in training.items() if name not in OWN}
    settings = DEFAULTS | (EVALUATED if validated else {})
    if early:
        settings |= {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    settings |= given | {
        "output_dir": str(folder),
        "seed": seed,
        "max_steps": course.steps,
        "bf16": course.bf16,
        "use_cpu": on_cpu(),
        "per_device_train_batch_size": course.shares.micro,
        "gradient_accumulation_steps": course.shares.accumulation,
        "remove_unused_columns": False,
        "disable_tqdm": True,
    }
    try:
        return TrainingArguments(**settings)
    except (TypeError, ValueError, ImportError) as error:
        raise StageError(f"training: Transformers refuses these arguments: {one_line(error)}") from error
