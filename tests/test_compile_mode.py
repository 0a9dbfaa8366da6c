"""The mode of torch.compile: named by a recipe or measured, remembered, kept for a resumed run."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compiled import STEADY, parts

from hfpipe.contract import RunContext
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.errors import StageError
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.training.arguments import CHECKPOINTING, TrainingPlan, create_training_arguments
from hfpipe.training.checkpoints import find_newest_checkpoint
from hfpipe.training.loop import train_model
from hfpipe.training.speed import compile_mode, timing
from hfpipe.training.speed.choice import Length, Speed, choose_speed
from hfpipe.training.speed.compile_mode import ModeTrial, check_mode, choose_mode
from hfpipe.training.speed.gpu import Device
from hfpipe.training.speed.memory import (
    Compilation,
    Measured,
    ModeTiming,
    estimate_mode,
    get_memory_file,
    store_measurement,
)
from hfpipe.training.speed.micro_batch import MicroBatch
from hfpipe.training.trainer import Training

Make = Callable[..., RunContext]
SHARES = BatchLayout(micro=4, accumulation=1, world=1)
COMPILED = Speed(bf16=False, compiled=True)
TUNED = "max-autotune-no-cudagraphs"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Return a small training, on a machine where nothing was measured before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timing, "BUSY", math.inf)
    return parts(tmp_path / "parts", CausalLM(length=32), "gpt2")


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a CPU choose as a GPU does."""
    monkeypatch.setitem(compile_mode.CANDIDATES, "cpu", (TUNED,))


def trial(made: Training, steps: int = 30, speed: Speed = COMPILED, **training: Any) -> ModeTrial:
    return ModeTrial(training, made, MicroBatch(SHARES), 7, speed, Length(steps, None), None)


def choose(made: Training, folder: Path, steps: int = 30, **training: Any) -> Speed:
    """Choose with compilers that take no time."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.compiler.set_stance("force_eager"):
        return choose_mode(trial(made, steps, **training), folder)


def remember(**seconds: tuple[float, float]) -> None:
    """Replace what was measured: mode → seconds of a micro-batch and of compiling."""
    file = get_memory_file()
    [(key, entry)] = json.loads(file.read_text(encoding="utf-8")).items()
    modes = {
        name.replace("_", "-"): {"seconds": each, "compiling": compiling}
        for name, (each, compiling) in seconds.items()
    }
    file.write_text(json.dumps({key: entry | {"measured": {"modes": modes}}}), encoding="utf-8")


def remember_both(tuned: float) -> None:
    """Remember the default mode with a second for a micro-batch, and another one after 20 s of compiling."""
    remember(default=(1.0, 5.0), **{TUNED.replace("-", "_"): (tuned, 20.0)})


def test_on_a_cpu_there_is_nothing_to_choose(made: Training, tmp_path: Path) -> None:
    assert choose(made, tmp_path / "work", steps=10**9) == COMPILED
    assert not get_memory_file().exists()
    assert not any((tmp_path / "work").iterdir())


def test_without_compiling_or_with_batches_of_many_shapes_there_is_nothing_to_choose(
    made: Training, choosing: None, tmp_path: Path
) -> None:
    assert trial(made).has_choice
    assert not trial(made, speed=Speed(bf16=False, compiled=False)).has_choice
    wide = replace(SHARES, micro=10**6)  # more examples than there are
    assert not ModeTrial({}, made, MicroBatch(wide), 7, COMPILED, Length(30, None), None).has_choice


def test_a_mode_in_the_recipe_is_used_and_nothing_is_measured(
    made: Training, choosing: None, tmp_path: Path
) -> None:
    named = {"torch_compile_mode": "max-autotune-no-cudagraphs"}
    speed = choose_speed(named, made, SHARES, 7, Length(30, None), tmp_path)
    assert speed == Speed(bf16=False, compiled=True, mode=TUNED)
    assert speed.compile_mode == TUNED
    assert choose_mode(trial(made, 10**9, speed, **named), tmp_path) == speed
    open_ended = named | {"compile": "auto"}
    (tmp_path / "auto").mkdir()
    short = choose_speed(open_ended, made, SHARES, 7, Length(30, None), tmp_path / "auto")
    assert short.compile_mode is None
    assert not get_memory_file().exists()


def test_trainer_does_not_compile_what_hfpipe_compiles(tmp_path: Path) -> None:
    named = {"torch_compile_mode": TUNED}
    plan = TrainingPlan(SHARES, 3, COMPILED)
    given = create_training_arguments(named, tmp_path, 1, plan, None, early=False)
    assert not given.torch_compile
    assert given.torch_compile_mode is None


def test_a_short_training_times_the_default_mode_only(
    made: Training, choosing: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    before = [weight.clone() for weight in made.model.parameters()]
    state = torch.get_rng_state()
    found = choose(made, tmp_path / "work")
    assert found.compile_mode == "default"
    assert found.measured is not None
    assert list(found.measured.modes) == ["default"]
    assert "speed: torch.compile in mode default; measured on" in caplog.text
    assert torch.equal(torch.get_rng_state(), state)
    for weight, was in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(weight, was)
        assert weight.grad is None
    assert made.model._compiled_call_impl is None


def test_a_long_training_compares_the_modes_and_the_next_one_remembers(
    made: Training, choosing: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = choose(made, tmp_path / "first", steps=10**9)
    assert first.measured is not None
    assert set(first.measured.modes) == {"default", TUNED}
    assert "measured before" not in caplog.text
    remember_both(tuned=0.9)
    assert choose(made, tmp_path / "long", steps=500).compile_mode == TUNED
    assert "measured before" in caplog.text
    assert choose(made, tmp_path / "short", steps=150).compile_mode == "default"  # saves 15 s, costs 20
    remember_both(tuned=0.98)
    assert choose(made, tmp_path / "close", steps=10**9).compile_mode == "default"
    remember_both(tuned=1.4)
    assert choose(made, tmp_path / "slow", steps=10**9).compile_mode == "default"


def test_a_resumed_run_keeps_the_mode_whatever_the_machine_measures_by_then(
    made: Training, choosing: None, tmp_path: Path
) -> None:
    choose(made, tmp_path / "first", steps=10**9)
    remember_both(tuned=0.5)
    kept = choose(made, tmp_path / "work", steps=10**6)
    assert kept.compile_mode == TUNED
    remember_both(tuned=1.5)
    assert choose(made, tmp_path / "work", steps=10**6) == kept
    assert choose(made, tmp_path / "new", steps=10**6).compile_mode == "default"


def test_a_mode_that_fails_is_skipped_with_one_line(
    made: Training, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setitem(compile_mode.CANDIDATES, "cpu", ("no-such-mode", TUNED))
    found = choose(made, tmp_path / "work", steps=10**9)
    assert found.measured is not None
    assert set(found.measured.modes) == {"default", TUNED}
    [line] = [text for text in caplog.messages if "is skipped" in text]
    assert line.startswith("torch.compile: mode no-such-mode failed and is skipped: ")
    assert "\n" not in line


def test_the_modes_are_compared_under_the_conditions_of_the_training_on_a_device(
    made: Training, choosing: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The CPU stands for a GPU: the memory of the optimizer is held, and layers are recomputed."""
    caplog.set_level("INFO")
    seen: list[bool] = []
    made.model.register_forward_pre_hook(lambda model, _: seen.append(getattr(model, f"is_{CHECKPOINTING}")))
    device = Device(torch.device("cpu"), "Card 7, 100 bytes", 2.0**24)
    fit = MicroBatch(SHARES, checkpointing=True)
    with torch.compiler.set_stance("force_eager"):
        found = choose_mode(ModeTrial({}, made, fit, 7, COMPILED, Length(10**9, None), device), tmp_path)
    assert found.measured is not None
    assert set(found.measured.modes) == {"default", TUNED}
    assert all(seen)
    assert not getattr(made.model, f"is_{CHECKPOINTING}")
    assert "measured on Card 7: seconds per micro-batch: default" in caplog.text


def test_what_a_mode_gave_other_models_tells_what_to_expect(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    assert estimate_mode(file, "m", TUNED, "default") is None
    for name, (seconds, tuned) in {"old": (90.0, 0.1), "a": (40.0, 0.9), "b": (60.0, 0.8)}.items():
        modes = {"default": ModeTiming(seconds=1.0, compiling=5.0)}
        modes[TUNED] = ModeTiming(seconds=tuned, compiling=seconds)
        store_measurement(file, name, "other" if name == "old" else "m", Measured(modes=modes))
    store_measurement(file, "eager", "m", Measured(eager={"float32": 3.0}))
    found = estimate_mode(file, "m", TUNED, "default")
    assert found is not None
    assert (found.seconds, found.saved) == pytest.approx((50.0, 0.15))


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_recorded_graphs_are_refused_where_micro_batches_are_accumulated_on_a_gpu(mode: str) -> None:
    speed = Speed(bf16=True, compiled=True, mode=mode)
    accumulated = BatchLayout(micro=4, accumulation=2, world=1)
    with pytest.raises(StageError, match=f"torch_compile_mode: {mode} records CUDA graphs, .*here 2; write"):
        check_mode(speed, accumulated, "cuda")
    check_mode(speed, SHARES, "cuda")
    check_mode(speed, accumulated, "cpu")
    check_mode(speed.model_copy(update={"compiled": False}), accumulated, "cuda")
    check_mode(speed.model_copy(update={"mode": TUNED}), accumulated, "cuda")


@pytest.mark.slow
def test_a_training_with_a_measured_mode_is_that_of_a_recipe_that_names_it_and_resumes_bit_for_bit(
    made: Training, choosing: None, context: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compile_mode, "USUAL", Compilation(1e-9, 0.5))  # so that it is tried
    monkeypatch.setattr(compile_mode, "CLEARLY", math.inf)  # and one of both is taken
    training = STEADY | {"compile": True, "per_device_train_batch_size": 4, "save_steps": 4}
    training |= {"save_total_limit": None}
    ctx = context("measured")
    facts = train_model(made, training, None, ctx)
    assert set(facts["speed"]["modes"]) == {"default", TUNED}
    whole = (ctx.folder / "model.safetensors").read_bytes()

    named = context("named")
    again = parts(tmp_path / "again", CausalLM(length=32), "gpt2")
    mode = {"torch_compile_mode": facts["compile_mode"]}
    assert train_model(again, training | mode, None, named)["compile_mode"] == facts["compile_mode"]
    assert (named.folder / "model.safetensors").read_bytes() == whole

    for name in ("checkpoint-8", "checkpoint-12"):
        shutil.rmtree(ctx.work / name, ignore_errors=True)
    (ctx.folder / "model.safetensors").unlink()
    assert find_newest_checkpoint(ctx.work)[0] == ctx.work / "checkpoint-4"
    get_memory_file().unlink()
    resumed = train_model(parts(tmp_path / "third", CausalLM(length=32), "gpt2"), training, None, ctx)
    assert resumed["compile_mode"] == facts["compile_mode"]
    assert (ctx.folder / "model.safetensors").read_bytes() == whole
