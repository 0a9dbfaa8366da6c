"""Training arguments that cannot change the weights and are therefore not part of the stage's key.

Every field of TrainingArguments is listed here once; a test compares the tables with the installed version.
Evaluation and saving use no random numbers. They affect the weights only if the best model is kept, if
training may stop early, and with optimizers and schedules that depend on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NEUTRAL = frozenset(
    {
        "dataloader_multiprocessing_context",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "ddp_timeout",
        "disable_tqdm",
        "enable_jit_checkpoint",
        "hub_always_push",
        "hub_model_id",
        "hub_private_repo",
        "hub_revision",
        "hub_strategy",
        "hub_token",
        "include_num_input_tokens_seen",
        "log_level",
        "log_level_replica",
        "log_on_each_node",
        "logging_first_step",
        "logging_steps",
        "logging_strategy",
        "project",
        "push_to_hub",
        "report_to",
        "run_name",
        "save_on_each_node",
        "save_total_limit",
        "skip_memory_metrics",
        "torch_empty_cache_steps",
        "trackio_bucket_id",
        "trackio_space_id",
        "trackio_static_space_id",
    }
)
"""Arguments that only control what is logged, kept or prefetched."""
OWN = frozenset({"padding_free"})
"""Those that hfpipe adds to TrainingArguments."""
CHOOSING = frozenset(
    {
        "eval_delay",
        "eval_on_start",
        "eval_steps",
        "eval_strategy",
        "greater_is_better",
        "metric_for_best_model",
        "per_device_eval_batch_size",
        "save_steps",
        "save_strategy",
    }
)
"""Arguments that affect the weights only if evaluations select the model or control the training."""


def find_neutral_arguments(training: Mapping[str, Any], *, early: bool) -> Iterator[str]:
    """Yield the given arguments that cannot change the weights; `early`: training may stop early."""
    chosen = early or bool(training.get("load_best_model_at_end"))
    reading = str(training.get("lr_scheduler_type")) == "reduce_lr_on_plateau" or str(
        training.get("optim", "")
    ).startswith("schedule_free")
    for name in training:
        if name in NEUTRAL or name in OWN or (name in CHOOSING and not chosen and not reading):
            yield name
