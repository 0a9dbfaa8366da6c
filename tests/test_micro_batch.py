"""As many examples at once as fit into a device's memory, found by trying, with the results of the recipe."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compiled import parts

from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import StageError
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.training.arguments import CHECKPOINTING, TrainingPlan, create_training_arguments
from hfpipe.training.speed.choice import Speed
from hfpipe.training.speed.gpu import Device, get_gpu
from hfpipe.training.speed.micro_batch import (
    MemoryTrial,
    MicroBatch,
    Way,
    fit_micro_batch,
    propose_micro_batches,
    set_micro_batch,
)
from hfpipe.training.trainer import TaskTrainer, Training

PLENTY = 2.0**30
SCARCE = 10.5 * 2**20
"""Bytes; by the estimate 8 examples take 23 MB, and 18 MB where layers are recomputed."""
EAGER = Speed(bf16=False, compiled=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return parts(tmp_path_factory.mktemp("parts") / "one", CausalLM(length=512), "llama")


def recomputes(made: Training) -> bool:
    return bool(getattr(made.model, f"is_{CHECKPOINTING}"))


def trial(
    made: Training, shares: BatchLayout, *, memory: float = PLENTY, name: str = "small", **training: Any
) -> MemoryTrial:
    device = Device(torch.device("cpu"), name, memory)
    return MemoryTrial(training, made, shares, 3, EAGER, device)


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Let this process map so many megabytes more, so that no single tensor larger than them can be made.

    Only that is certain: how much smaller tensors find in what the allocator kept differs by machine.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        (BatchLayout(32, 1, 1), [32, 16, 8, 4, 2, 1]),
        (BatchLayout(6, 1, 2), [6, 3, 1]),
        (BatchLayout(3, 4, 1), [3, 1]),
        (BatchLayout(1, 8, 1), [1]),
    ],
)
def test_a_step_has_the_same_examples_however_few_fit_at_once(shares: BatchLayout, sizes: list[int]) -> None:
    assert list(propose_micro_batches(shares)) == sizes
    assert {set_micro_batch(shares, micro).total for micro in sizes} == {shares.total}


def test_a_training_on_a_cpu_tries_nothing() -> None:
    assert get_gpu() is None


@pytest.mark.slow
def test_where_memory_is_short_fewer_examples_are_taken_at_once(small: Training) -> None:
    shares = BatchLayout(256, 1, 1)
    before = [weight.clone() for weight in small.model.parameters()]
    state = torch.get_rng_state()
    assert trial(small, shares).find_largest() == Way(micro=256)
    with at_most(160):  # the attention mask of 256 examples alone, 256 x 512 x 512 in fp32, takes 256 MB
        assert not trial(small, shares).fits(Way(micro=256))
        assert trial(small, shares).find_largest().micro < 256
    for weight, was in zip(small.model.parameters(), before, strict=True):
        assert torch.equal(weight, was)
        assert weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert not recomputes(small)


@pytest.mark.slow
def test_layers_are_recomputed_where_an_estimate_leaves_no_room_for_a_busy_pass(small: Training) -> None:
    shares = BatchLayout(32, 1, 1)
    assert trial(small, shares, memory=SCARCE).find_largest() == Way(micro=8, checkpointing=True)
    asked = trial(small, shares, memory=SCARCE, **{CHECKPOINTING: False})
    assert asked.find_largest() == Way(micro=4)


def test_on_a_gpu_a_loss_in_chunks_is_tried_before_fewer_examples_if_logits_are_large(
    small: Training,
) -> None:
    def ways(memory: float, **training: Any) -> list[Way]:
        device = Device(torch.device("cuda"), "small", memory)
        return list(MemoryTrial(training, small, BatchLayout(8, 1, 1), 3, EAGER, device).propose_ways())

    assert small.task.config.length == 512  # and the vocabulary 300: 10 MB for 8 examples
    large = ways(2.0**26)
    assert large[:3] == [Way(micro=8), Way(micro=8, head_in_loss=True), Way(micro=8, checkpointing=True)]
    assert large[3] == Way(micro=8, checkpointing=True, head_in_loss=True)
    assert Way(micro=4, checkpointing=True) in large
    assert Way(micro=4, checkpointing=True, head_in_loss=True) not in large  # 5 MB
    for training in ({"fp16": True}, {"ddp_find_unused_parameters": True}):
        assert not any(way.head_in_loss for way in ways(2.0**26, **training))
    assert not any(way.head_in_loss for way in ways(2.0**30))
    assert not any(way.head_in_loss for way in trial(small, BatchLayout(8, 1, 1)).propose_ways())


@pytest.mark.slow
def test_what_fits_is_kept_for_a_resumed_run_on_the_same_kind_of_device(
    small: Training, tmp_path: Path
) -> None:
    shares = BatchLayout(64, 2, 1)
    found = fit_micro_batch(trial(small, shares, memory=SCARCE), tmp_path)
    assert found == MicroBatch(BatchLayout(8, 16, 1), checkpointing=True)
    assert found.shares.total == shares.total
    assert fit_micro_batch(trial(small, shares), tmp_path) == found
    assert fit_micro_batch(trial(small, shares, name="large"), tmp_path) == MicroBatch(shares)
    other = replace(shares, world=2)
    assert fit_micro_batch(trial(small, other, name="large"), tmp_path) == MicroBatch(other)


@pytest.mark.slow
def test_a_model_too_large_for_one_example_is_refused(small: Training) -> None:
    with at_most(0), pytest.raises(StageError, match="not even one example fits into the"):
        trial(small, BatchLayout(2, 1, 1), memory=2.0**40).find_largest()  # of which a share stays free


def losses(folder: Path, shares: BatchLayout, *, checkpointing: bool) -> list[float]:
    made = parts(folder, CausalLM(length=32), "llama")
    training = {"learning_rate": 1e-3, "logging_steps": 1, "bf16": False, "save_strategy": "no"}
    course = TrainingPlan(shares, 6, EAGER, checkpointing)
    given = create_training_arguments(training, folder / "work", 17, course, None, early=False)
    assert bool(getattr(given, CHECKPOINTING)) is checkpointing
    trainer = TaskTrainer(made, given, shares)
    trainer.train()
    assert recomputes(made) is checkpointing
    return [entry["loss"] for entry in trainer.state.log_history if "grad_norm" in entry]


@pytest.mark.slow
def test_a_training_in_smaller_passes_with_layers_recomputed_has_the_losses_of_the_recipe(
    tmp_path: Path,
) -> None:
    shares = BatchLayout(8, 1, 1)
    whole = losses(tmp_path / "whole", shares, checkpointing=False)
    parted = losses(tmp_path / "parted", set_micro_batch(shares, 2), checkpointing=True)
    assert len(whole) == 6
    assert parted == pytest.approx(whole, rel=1e-5)
