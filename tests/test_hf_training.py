"""What a training keeps to whatever its arguments: the best model, its end, and both when taken up again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import small
import torch

from hfpipe.contract import RunContext
from hfpipe.encoding.encoded import encode
from hfpipe.encoding.io import extract_facts
from hfpipe.encoding.sampler import compute_batch_layout
from hfpipe.errors import StageError
from hfpipe.metrics.scores.classification import create_multi_label_metrics, create_single_label_metrics
from hfpipe.metrics.scores.language import create_language_metrics
from hfpipe.metrics.scores.regression import create_regression_metrics
from hfpipe.modeling.loading.models import create_config, create_model
from hfpipe.runner.failures import translate_errors
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tokenization.loading import complete_tokenizer
from hfpipe.tokenization.special_tokens import STYLES
from hfpipe.tokenization.training import Learner
from hfpipe.training import loop as hf_training
from hfpipe.training.arguments import TrainingPlan, create_training_arguments, select_best_metric
from hfpipe.training.checkpoints import find_newest_checkpoint
from hfpipe.training.speed.choice import Speed
from hfpipe.training.trainer import Training

Make = Callable[..., RunContext]
TEXTS = [
    "The Nile is a river in Africa that flows north into the Mediterranean Sea.",
    "Everest is the highest mountain above the sea, on the border of Nepal and China.",
    "The Amazon carries more water than any other river.",
    "K2 is the second highest mountain and harder to climb than Everest.",
    "The Danube flows through ten countries into the Black Sea.",
]
MODEL = {
    "type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
STEADY = {"lr_scheduler_type": "constant", "learning_rate": 1e-2, "logging_steps": 1, "bf16": False}


def parts(folder: Path) -> Training:
    """Return a small training of masked-lm, with a new model."""
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    learner = Learner("wordpiece", STYLES["bert"], (), 200, 1, lowercase=True)
    tokenizer = complete_tokenizer(learner.learn(TEXTS), STYLES["bert"])
    task, facts = MaskedLM(length=8), extract_facts(datasets.DatasetDict(train=rows))

    def encoded(split: str) -> Any:
        path = folder / f"{split}.arrow"
        return encode(
            task.runtime(), rows, tokenizer, facts, path, packed=split == "train", advance=lambda _: None
        )[0]

    return Training(
        task=task.runtime(),
        model=create_model(task.auto_class, create_config(MODEL, tokenizer, {}), 3),
        tokenizer=tokenizer,
        train=encoded("train"),
        validation=encoded("validation"),
        facts=facts,
    )


def made(folder: Path, *, early: bool = False, metrics: Any = None, **training: Any) -> Any:
    best = select_best_metric(training, metrics) if metrics is not None else None
    course = TrainingPlan(compute_batch_layout(8, 1, 1), steps=100, speed=Speed(bf16=False, compiled=False))
    return create_training_arguments(training, folder, 3, course, best, early=early)


@pytest.mark.parametrize(
    ("metric", "metrics", "rises"),
    [
        ("perplexity", create_language_metrics(), False),
        ("accuracy", create_language_metrics(), True),
        ("brier", create_single_label_metrics(["a", "b"]), False),
        ("eval_f1_macro", create_single_label_metrics(["a", "b"]), True),
        ("hamming_loss", create_multi_label_metrics(["a", "b"]), False),
        (None, create_regression_metrics(), False),
        (None, create_single_label_metrics(["a", "b"]), False),
    ],
)
def test_the_best_model_is_the_one_whose_metric_is_best(
    tmp_path: Path, metric: str | None, metrics: Any, rises: bool
) -> None:
    given = {"load_best_model_at_end": True} | ({"metric_for_best_model": metric} if metric else {})
    found = made(tmp_path, metrics=metrics, **given)
    assert found.greater_is_better is rises
    assert found.metric_for_best_model in {each.name for each in metrics}


def test_an_unknown_metric_for_the_best_model_is_reported_with_the_known_ones() -> None:
    with pytest.raises(StageError, match="the task has no 'bleu'; it has mse, mae, pearson"):
        select_best_metric({"metric_for_best_model": "bleu"}, create_regression_metrics())


@pytest.mark.parametrize(
    "given",
    [{"eval_steps": 7}, {"save_steps": 7}, {"eval_strategy": "epoch"}, {"save_strategy": "epoch"}],
    ids=str,
)
def test_saving_follows_evaluation_where_the_best_model_is_kept(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    found = made(tmp_path, early=True, metrics=create_regression_metrics(), **given)
    assert found.eval_strategy.value == found.save_strategy.value
    assert found.eval_steps == found.save_steps
    assert all(getattr(found, name) == value for name, value in given.items())


def test_saving_only_the_best_model_needs_no_word_of_when_to_evaluate(tmp_path: Path) -> None:
    found = made(
        tmp_path, metrics=create_regression_metrics(), save_strategy="best", load_best_model_at_end=True
    )
    assert (found.save_strategy.value, found.eval_strategy.value) == ("best", "steps")


def test_precision_is_that_of_the_recipe_whatever_an_accelerate_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert made(tmp_path).mixed_precision == "no"


@pytest.mark.slow
def test_processes_agree_on_the_steps_that_fit_into_a_time(
    context: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, few = context("timed"), {"per_device_train_batch_size": 16}  # one batch an epoch
    first = hf_training._plan(parts(tmp_path), few | {"budget": "1s"}, ctx).steps
    monkeypatch.setenv("RANK", "1")
    assert hf_training._plan(parts(tmp_path), few | {"budget": "1h"}, ctx).steps == first >= 1


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_trains_no_further(context: Make, tmp_path: Path) -> None:
    ctx = context("whole")
    given = STEADY | {"max_steps": 7, "save_steps": 3, "per_device_train_batch_size": 2}
    found = hf_training.train_model(parts(tmp_path), given, None, ctx)
    before = small.hash_weights(ctx.folder)
    (ctx.folder / "model.safetensors").unlink()
    assert find_newest_checkpoint(ctx.work)[0] == ctx.work / "checkpoint-7"
    again = hf_training.train_model(parts(tmp_path), given, None, ctx)
    assert (again["steps"], small.hash_weights(ctx.folder)) == (found["steps"], before) == (7, before)
    assert list(again["validation"]) == list(found["validation"])  # the most important one is the first
    assert again["validation"].keys() > {"loss", "perplexity"}
    assert list(map(list, again["history"])) == list(map(list, found["history"]))


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [4, 8])
def test_patience_is_counted_on_when_a_run_is_taken_up_again(
    context: Make, tmp_path: Path, killed_at: int
) -> None:
    ctx = context("patient")
    given = STEADY | {"learning_rate": 0.0, "max_steps": 40, "eval_steps": 2, "save_total_limit": None}
    assert hf_training.train_model(parts(tmp_path), given, (3, 0.0), ctx)["steps"] == 8
    for checkpoint in ctx.work.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > killed_at:
            shutil.rmtree(checkpoint)
    assert hf_training.train_model(parts(tmp_path), given, (3, 0.0), ctx)["steps"] == 8


@pytest.mark.slow
def test_validation_scores_are_those_of_the_model_that_is_kept(context: Make, tmp_path: Path) -> None:
    ctx = context("best")
    given = STEADY | {"learning_rate": 0.5, "max_steps": 6, "eval_steps": 1, "load_best_model_at_end": True}
    found = hf_training.train_model(
        parts(tmp_path), given | {"metric_for_best_model": "perplexity"}, None, ctx
    )
    seen = [entry["eval_perplexity"] for entry in found["history"] if "eval_perplexity" in entry]
    assert found["validation"]["perplexity"] == min(seen) < seen[-1]


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(context: Make, tmp_path: Path) -> None:
    fresh = parts(tmp_path)
    fresh.model.cls.predictions.decoder.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(StageError, match="the gradient norm is nan at step 1; lower learning_rate"):
        hf_training.train_model(fresh, STEADY | {"max_steps": 2}, None, context("spoilt"))
    assert all(parameter.isfinite().all() for parameter in fresh.model.parameters())


def test_full_memory_or_a_full_disk_is_reported_with_a_fix(context: Make) -> None:
    ctx = context("full")
    with (
        pytest.raises(StageError, match="out of memory; halve per_device_train_batch_size"),
        translate_errors(ctx),
    ):
        torch.empty(10**15)
    with pytest.raises(StageError, match="No space left on device; free disk space"), translate_errors(ctx):
        torch.save(torch.zeros(10**5), "/dev/full")
    with (
        pytest.raises(StageError, match=r"RuntimeError: The size of tensor a .* the trace is in"),
        translate_errors(ctx),
    ):
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.slow
def test_a_tracker_that_is_not_installed_is_named_in_one_line(context: Make, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"training: Transformers rejects these arguments: .*comet"
    ) as caught:
        hf_training.train_model(parts(tmp_path), STEADY | {"report_to": "comet_ml"}, None, context("tracked"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_that_are_spawned_give_the_batches_of_the_process_itself(
    context: Make, tmp_path: Path
) -> None:
    found = []
    for workers in ({}, {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"}):
        ctx = context(f"workers-{len(found)}")
        hf_training.train_model(parts(tmp_path), STEADY | {"max_steps": 3} | workers, None, ctx)
        found.append(small.hash_weights(ctx.folder))
    assert found[0] == found[1]
