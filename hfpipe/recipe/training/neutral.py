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
DECISIVE = frozenset(
    {
        "accelerator_config",
        "activation_checkpointing",
        "activation_checkpointing_kwargs",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "auto_find_batch_size",
        "average_tokens_across_devices",
        "batch_eval_metrics",
        "bf16",
        "bf16_full_eval",
        "data_seed",
        "dataloader_drop_last",
        "dataloader_in_order",
        "ddp_backend",
        "ddp_broadcast_buffers",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "ddp_static_graph",
        "debug",
        "deepspeed",
        "do_eval",
        "do_predict",
        "do_train",
        "eval_accumulation_steps",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "fp16",
        "fp16_full_eval",
        "fsdp",
        "fsdp_config",
        "full_determinism",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "ignore_data_skip",
        "include_for_metrics",
        "label_names",
        "label_smoothing_factor",
        "learning_rate",
        "length_column_name",
        "liger_kernel_config",
        "load_best_model_at_end",
        "local_rank",
        "logging_nan_inf_filter",
        "lr_scheduler_kwargs",
        "lr_scheduler_type",
        "max_grad_norm",
        "max_steps",
        "neftune_noise_alpha",
        "num_train_epochs",
        "optim",
        "optim_args",
        "optim_target_modules",
        "output_dir",
        "parallelism_config",
        "per_device_train_batch_size",
        "prediction_loss_only",
        "remove_unused_columns",
        "restore_callback_states_from_checkpoint",
        "resume_from_checkpoint",
        "save_only_model",
        "seed",
        "tf32",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "train_sampling_strategy",
        "use_cache",
        "use_cpu",
        "use_liger_kernel",
        "warmup_steps",
        "weight_decay",
    }
)
"""Arguments that affect the weights, or that hfpipe does not accept."""


def find_neutral_arguments(training: Mapping[str, Any], *, early: bool) -> Iterator[str]:
    """Yield the given arguments that cannot change the weights; `early`: training may stop early."""
    chosen = early or bool(training.get("load_best_model_at_end"))
    reading = str(training.get("lr_scheduler_type")) == "reduce_lr_on_plateau" or str(
        training.get("optim", "")
    ).startswith("schedule_free")
    for name in training:
        if name in NEUTRAL or (name in CHOOSING and not chosen and not reading):
            yield name
