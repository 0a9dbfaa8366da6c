"""Settings that cannot change a result are not part of a stage's key; all others are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small

import hfpipe
from hfpipe.recipe.installed import read_installed_arguments
from hfpipe.recipe.training.neutral import CHOOSING, NEUTRAL, find_neutral_arguments

CALM = {"logging_steps": 3, "report_to": "none", "save_total_limit": 1}
DECISIVE = {
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
"""Arguments that affect the weights, or that hfpipe does not accept."""
SINCE_5_21 = {"activation_checkpointing", "activation_checkpointing_kwargs"}
"""Arguments that Transformers 5.20 does not have, the last version for Python 3.10."""
CALM |= {"eval_steps": 7, "save_steps": 7, "per_device_eval_batch_size": 5}


def keys(tmp_path: Path, stage: str, changes: dict[str, Any]) -> str:
    """Return the key of a stage of the small recipe with some settings changed."""
    file = small.write(tmp_path, small.recipe())
    recipe = hfpipe.load(file, [f"{path}={json.dumps(value)}" for path, value in changes.items()])
    return {step.name: step.identity.key for step in hfpipe.plan(recipe, tmp_path / "runs")}[stage]


SHARED = {"kind", "data", "trust_remote_code"}
TRAINED = {"adapter", "early_stopping", "model", "task", "tokenizer", "training"} | SHARED
IN_KEYS = {
    "wiki": {"clean", "columns", "kind", "labels", "limit", "source", "split", "text"},
    "words": {"algorithm", "data", "kind", "lowercase", "max_bytes", "min_frequency", "special_tokens"}
    | {"style", "text", "tokenizer", "vocab_size"},
    "pretrain": TRAINED,
    "topics": TRAINED,
    "score": {"baselines", "batch_size", "cluster", "labels", "leakage", "metrics", "model", "require"}
    | {"resamples", "split", "task"}
    | SHARED,
}
"""Settings in the key of each stage of the small recipe, set or not."""


def test_a_setting_of_a_later_version_that_is_not_set_leaves_finished_stages_done(tmp_path: Path) -> None:
    """Where this fails, a setting is new: `neutral` of its stage has to keep it out of the key if unset."""
    steps = hfpipe.plan(hfpipe.load(small.write(tmp_path, small.recipe())), tmp_path / "runs")
    assert {step.name: set(step.identity.decisive) for step in steps} == IN_KEYS


def test_every_argument_of_a_training_is_known_to_decide_its_weights_or_not() -> None:
    known = sorted([*NEUTRAL, *CHOOSING, *DECISIVE])
    assert [name for name in known if name in read_installed_arguments() or name not in SINCE_5_21] == sorted(
        read_installed_arguments()
    )


@pytest.mark.parametrize("name", sorted(CALM))
def test_what_is_logged_saved_or_scored_between_does_not_change_the_key(tmp_path: Path, name: str) -> None:
    plain = keys(tmp_path, "pretrain", {})
    assert keys(tmp_path, "pretrain", {f"pretrain.training.{name}": CALM[name]}) == plain


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 7e-4},
        {"max_grad_norm": 0.5},
        {"load_best_model_at_end": True},
        {"weight_decay": 0.3},
    ],
)
def test_what_the_weights_depend_on_changes_the_key(tmp_path: Path, changes: dict[str, Any]) -> None:
    sets = {f"pretrain.training.{name}": value for name, value in changes.items()}
    assert keys(tmp_path, "pretrain", sets) != keys(tmp_path, "pretrain", {})


@pytest.mark.parametrize(
    "steering",
    [
        {"load_best_model_at_end": True},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"optim": "schedule_free_adamw"},
    ],
)
def test_evaluations_that_steer_a_training_count(steering: dict[str, Any]) -> None:
    assert list(find_neutral_arguments({"eval_steps": 5, "logging_steps": 5}, early=False)) == [
        "eval_steps",
        "logging_steps",
    ]
    assert list(find_neutral_arguments(steering | {"eval_steps": 5, "logging_steps": 5}, early=False)) == [
        "logging_steps"
    ]
    assert list(find_neutral_arguments({"eval_steps": 5}, early=True)) == []


def test_the_batch_size_of_an_evaluation_does_not_change_its_key(tmp_path: Path) -> None:
    assert keys(tmp_path, "score", {"score.batch_size": 3}) == keys(tmp_path, "score", {})
    assert keys(tmp_path, "score", {"score.resamples": 500}) != keys(tmp_path, "score", {})


@pytest.mark.slow
def test_a_training_with_dropout_ends_with_the_same_weights_however_it_is_watched(tmp_path: Path) -> None:
    file = small.write(tmp_path, small.recipe())
    weights = set()
    for number, watched in enumerate(
        [{}, CALM | {"eval_strategy": "no", "logging_first_step": True}, {"eval_steps": 2}]
    ):
        settings = {"max_steps": 12, "per_device_train_batch_size": 8, "bf16": False} | watched
        sets = ["pretrain.model.mlp_dropout=0.2", f"pretrain.training={json.dumps(settings)}"]
        run = hfpipe.run(
            hfpipe.load(file, sets), tmp_path / f"runs{number}", until="pretrain", say=lambda _: None
        )
        weights.add(
            (run.folders["pretrain"].name, (run.folders["pretrain"] / "model.safetensors").read_bytes())
        )
    assert len(weights) == 1
