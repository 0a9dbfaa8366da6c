"""Fine-tuning without padding: losses and gradients of padded batches, for each task and type of model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_equal_gradients import PAIRS, ROWS, assert_equal, gradients, plain, training
from test_model_types import TYPES
from test_processes import outcome
from test_resume import killed_after
from torch import Tensor
from torch.nn import functional as F
from transformers import CONFIG_MAPPING

import hfpipe
from hfpipe.encoding.padding import list_forward_passes
from hfpipe.encoding.sampler import BatchLayout, group_by_tokens
from hfpipe.modeling.attention import unpadding
from hfpipe.modeling.attention.layout import PACKED, TAIL, make_layout, read_layout
from hfpipe.modeling.attention.unpadding import find_unpadding, is_equal
from hfpipe.modeling.loading.models import create_model
from hfpipe.training.arguments import CHECKPOINTING, TrainingPlan, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.trainer import TaskTrainer, Training

FREE = [
    (name, kind)
    for name, kind in PAIRS
    if TYPES[kind][0] != "AutoModelForSeq2SeqLM" and name not in ("masked-lm", "causal-lm")
]
LENGTH = 240
"""Tokens of an example at most, so that few are cut and their lengths differ."""
SUPPORTED = {"bert", "roberta", "modernbert", "distilbert", "electra", "gpt2", "llama", "qwen3"}
FAST = {
    ("text-classification", "bert"),
    ("text-classification", "modernbert"),
    ("text-generation", "llama"),
    ("token-classification", "roberta"),
}
MARKED = [pytest.param(*pair, marks=[] if pair in FAST else [pytest.mark.slow]) for pair in FREE]


def make_trainer(
    made: Training, folder: Path, shares: BatchLayout, *, compiled: bool = False, **more: Any
) -> TaskTrainer:
    plan = TrainingPlan(shares, 1, Speed(bf16=False, compiled=compiled))
    arguments = create_training_arguments(more, folder, 5, plan, None, early=False)
    mode = "default" if compiled else None
    return TaskTrainer(made, arguments, shares, compile_mode=mode, padding_free=True)


def compute_step(trainer: TaskTrainer) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Any]]:
    """Return the gradients of the first step, those of the padded batch, and the forward passes."""
    accumulated = trainer.shares.accumulation
    made = Training(trainer.task, trainer.bare, trainer.tokenizer, trainer.examples, None, trainer.facts)
    loader = trainer.get_train_dataloader()
    keys = [key for keys, _ in zip(loader.batch_sampler, range(accumulated), strict=False) for key in keys]
    batches, count = trainer.get_batch_samples(iter(loader), accumulated, torch.device("cpu"))
    for batch in batches:
        trainer.training_step(trainer.model, batch, count)
    found = gradients(trainer.bare)
    trainer.bare._compiled_call_impl = trainer.bare.base_model._compiled_call_impl = None
    expected = plain(made, made.train.__getitems__(keys), int(count))
    return found, expected, [part for each in batches for part in list_forward_passes(each)]


@pytest.mark.parametrize(("name", "kind"), MARKED)
def test_a_step_without_padding_has_the_gradients_of_the_padded_batch(
    name: str, kind: str, tmp_path: Path
) -> None:
    made = training(name, kind, tmp_path, LENGTH)
    trainer = make_trainer(made, tmp_path, BatchLayout(min(ROWS, len(made.train)), 1, 1))
    if trainer._unpadding is None:
        assert kind not in SUPPORTED
        pytest.skip(f"{kind} keeps its padding")
    with trainer.use_fast_kernels():
        found, expected, batches = compute_step(trainer)
    assert any(PACKED in batch for batch in batches)
    assert_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "kind"), [("text-classification", "modernbert"), ("text-generation", "llama")]
)
def test_accumulated_steps_without_padding_have_the_gradients_of_one_padded_batch(
    name: str, kind: str, tmp_path: Path
) -> None:
    made = training(name, kind, tmp_path, LENGTH)
    trainer = make_trainer(made, tmp_path, BatchLayout(ROWS // 4, 4, 1))
    with trainer.use_fast_kernels():
        found, expected, batches = compute_step(trainer)
    assert sum(PACKED in batch for batch in batches) > 1
    assert_equal(found, expected)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_layers_that_are_recomputed_run_without_padding_too(kind: str, tmp_path: Path) -> None:
    made = training("text-classification", kind, tmp_path, LENGTH)
    reentrant = {f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}}
    trainer = make_trainer(made, tmp_path, BatchLayout(ROWS, 1, 1), **{CHECKPOINTING: True}, **reentrant)
    getattr(trainer.bare, f"{CHECKPOINTING}_enable")({"use_reentrant": False})
    with trainer.use_fast_kernels():
        found, expected, _ = compute_step(trainer)
    assert_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"), [("text-classification", "bert"), ("token-classification", "modernbert")]
)
def test_a_compiled_step_without_padding_has_the_gradients_of_the_padded_batch(
    name: str, kind: str, tmp_path: Path
) -> None:
    torch._dynamo.reset()
    made = training(name, kind, tmp_path, LENGTH)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer = make_trainer(made, tmp_path, BatchLayout(ROWS, 1, 1), compiled=True)
    found, expected, batches = compute_step(trainer)
    assert PACKED in batches[0]
    assert_equal(found, expected)


@pytest.mark.slow
def test_a_training_without_padding_is_that_of_padded_batches_also_killed_or_in_two_processes(
    tmp_path: Path,
) -> None:
    recipe = small.recipe("bert", save_steps=2)
    topics = recipe["stages"]["topics"]
    topics["task"]["length"], topics["training"]["max_steps"] = 96, 8
    path = small.write(tmp_path, recipe)
    padded = outcome(hfpipe.run(hfpipe.load(path), tmp_path / "padded", say=lambda _: None))
    topics["training"]["padding_free"] = True
    path = small.write(tmp_path, recipe)
    killed_after("checkpoint-4", "topics", path, tmp_path / "killed")
    runs = [hfpipe.run(hfpipe.load(path), tmp_path / name, say=lambda _: None) for name in ("free", "killed")]
    assert "resuming from checkpoint-" in (runs[1].folders["topics"] / "stage.log").read_text()
    assert small.hash_weights(runs[0].folders["topics"]) == small.hash_weights(runs[1].folders["topics"])
    processes.run(path, tmp_path / "together", processes.config_file(tmp_path, "ddp-cpu", 2))
    runs.append(hfpipe.open(path, tmp_path / "together"))
    for run in runs:
        found = outcome(run)
        for key, value in padded.items():
            for mine, theirs in zip(found[key], value, strict=True):
                assert mine == pytest.approx(theirs, abs=2e-5), key


def test_the_setting_is_not_part_of_the_key(tmp_path: Path) -> None:
    recipe, keys = small.recipe("bert"), []
    for free in (None, False, True):
        if free is not None:
            recipe["stages"]["topics"]["training"]["padding_free"] = free
        plan = hfpipe.plan(hfpipe.load(small.write(tmp_path, recipe)), tmp_path / "runs")
        keys.append([step.identity.key for step in plan])
    assert keys[0] == keys[1] == keys[2]


@pytest.mark.parametrize(
    ("name", "kind", "more", "reason"),
    [
        ("text-classification", "deberta-v2", {}, "deberta-v2 cannot run without padding"),
        ("translation", "t5", {}, "t5 cannot run without padding"),
        ("masked-lm", "bert", {}, "examples of masked-lm have one length, and no padding"),
        ("text-classification", "bert", {"neftune_noise_alpha": 5.0}, "the noise of neftune_noise_alpha"),
    ],
)
def test_what_keeps_its_padding_is_said_in_one_line(
    name: str,
    kind: str,
    more: dict[str, Any],
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = training(name, kind, tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(made, tmp_path, BatchLayout(4, 1, 1), **more)
    assert trainer._unpadding is None
    assert f"training.padding_free: true has no effect here: {reason}" in caplog.text
    [batch, *_] = list_forward_passes(next(iter(trainer.get_train_dataloader())))
    assert PACKED not in batch


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, TAIL))
def test_a_layout_holds_each_token_once_and_a_tail(lengths: list[int], multiple: int) -> None:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    layout = read_layout(make_layout(mask, multiple))
    if layout is None:
        assert len(set(lengths)) == 1
        return
    values = torch.arange(mask.numel()).reshape(mask.shape)
    packed = layout.pack(values)
    assert packed.shape[1] % multiple == 0
    assert 0 < packed.shape[1] - sum(lengths) <= multiple
    assert packed[0, : sum(lengths)].tolist() == values[mask != 0].tolist()
    assert layout.bounds.diff().tolist() == [*lengths, packed.shape[1] - sum(lengths)]
    assert torch.equal(layout.pad(packed)[mask != 0], values[mask != 0])
    assert torch.equal(layout.tokens, mask != 0)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(50, 600))
def test_groups_without_padding_hold_every_row_once_within_their_tokens(
    lengths: list[int], most: int
) -> None:
    counts = np.array(lengths)
    groups = group_by_tokens(counts, most)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert all(len(group) == 1 or counts[group].sum() <= most for group in groups)
    assert np.concatenate([counts[group] for group in groups]).tolist() == sorted(lengths, reverse=True)


def attend_by_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    _: Tensor,
    longest: int,
    __: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """Compute what `torch.nn.attention.varlen.varlen_attn` is documented to, which needs a GPU."""
    found = []
    left, right = (10**6 if size < 0 else size for size in window_size)
    for begin, end in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        assert end - begin <= longest
        far = torch.arange(end - begin)[None] - torch.arange(end - begin)[:, None]
        mask = (far >= -left) & (far <= right)
        one, other, third = (each[begin:end].transpose(0, 1) for each in (query, key, value))
        found.append(
            F.scaled_dot_product_attention(one, other, third, mask, scale=scale, enable_gqa=enable_gqa)
        )
    return torch.cat(found, 1).transpose(0, 1)


@contextmanager
def allow_kernel_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(unpadding, "supports_varlen", lambda *_: True)
        yield


WINDOWED = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("kind", "entries"),
    [
        ("bert", {}),
        ("modernbert", {"num_hidden_layers": 4, "local_attention": 4}),
        ("llama", {"num_key_value_heads": 2}),
        ("mistral", {"num_key_value_heads": 2, "sliding_window": 3}),
    ],
)
def test_a_kernel_for_varying_lengths_gets_the_windows_of_the_model(
    kind: str, entries: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[kind](**WINDOWED | {"num_hidden_layers": 2} | entries | ids)
    model = create_model("AutoModelForSequenceClassification", config, 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)
    way = find_unpadding(model)
    assert way is not None
    assert way._has_plain_masks(model)
    calls = []

    def kernel(*tensors: Any, **options: Any) -> Tensor:
        calls.append(options["window_size"])
        return attend_by_definition(*tensors, **options)

    way._attention.kernel = kernel
    with allow_kernel_on_cpu(monkeypatch):
        assert is_equal(model, way)
    assert len(calls) == config.num_hidden_layers
    assert len(set(calls)) == (2 if kind == "modernbert" else 1)


def test_a_model_whose_masks_depend_on_the_row_keeps_its_padding() -> None:
    sizes = {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 2}
    config = CONFIG_MAPPING["llama4_text"](
        **WINDOWED | sizes | {"intermediate_size_mlp": 64, "attention_chunk_size": 4, "pad_token_id": 0}
    )
    assert find_unpadding(create_model("AutoModelForCausalLM", config, 3)) is None
