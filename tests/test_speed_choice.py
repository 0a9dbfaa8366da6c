"""Speed settings that are measured: remembered, kept for a resumed run, without effect on what is learned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compiled import STEADY, parts
from test_timing import crowded

from hfpipe.contract import RunContext
from hfpipe.encoding.sampler import BatchLayout
from hfpipe.tasks.causal_lm import CausalLM
from hfpipe.training.loop import train_model
from hfpipe.training.speed import choice, timing
from hfpipe.training.speed.choice import Length, Speed, choose_speed
from hfpipe.training.speed.memory import (
    MOST,
    Compilation,
    Measured,
    compute_key,
    estimate_compilation,
    get_memory_file,
    load_measurement,
    store_measurement,
)
from hfpipe.training.speed.timing import BUSY
from hfpipe.training.trainer import Training

Make = Callable[..., RunContext]
SHARES = BatchLayout(micro=4, accumulation=1, world=1)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """Return a small training, on a machine where nothing was measured before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return parts(tmp_path / "parts", CausalLM(length=32), "gpt2")


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure however short a training is and whatever else runs; compile only where that paid before."""
    monkeypatch.setattr(timing, "BUSY", math.inf)
    monkeypatch.setattr(choice, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(choice, "LEAST_PASSES", 0)


def choose(made: Training, folder: Path, steps: int = 30, **training: Any) -> Speed:
    folder.mkdir(parents=True, exist_ok=True)
    return choose_speed(training, made, SHARES, 7, Length(steps, None), folder)


def remembered(**found: Any) -> None:
    """Replace what was measured."""
    file = get_memory_file()
    [(key, entry)] = json.loads(file.read_text(encoding="utf-8")).items()
    file.write_text(json.dumps({key: entry | {"measured": found}}), encoding="utf-8")


def test_a_short_training_measures_nothing_and_is_eager_float32(made: Training, tmp_path: Path) -> None:
    assert choose(made, tmp_path / "work") == Speed(bf16=False, compiled=False)
    assert choose_speed({}, made, SHARES, 7, Length(None, 20.0), tmp_path / "parts").measured is None
    assert not get_memory_file().exists()


def test_what_a_recipe_says_is_obeyed(made: Training, measuring: None, tmp_path: Path) -> None:
    assert choose(made, tmp_path / "a", bf16=False, compile=False) == Speed(bf16=False, compiled=False)
    assert choose(made, tmp_path / "b", bf16=True, compile=True) == Speed(bf16=True, compiled=True)
    found = choose(made, tmp_path / "c", bf16=True)
    assert found.bf16
    assert found.measured is not None
    assert list(found.measured.eager) == ["bfloat16"]
    assert not choose(made, tmp_path / "d", fp16=True).bf16


def test_a_measurement_is_remembered_and_decides_by_the_length_of_the_training(
    made: Training, measuring: None, tmp_path: Path
) -> None:
    first = choose(made, tmp_path / "first")
    assert first.measured is not None
    assert set(first.measured.gemm) == {"float32", "bfloat16"}
    assert first.measured.eager["float32"] > 0
    gemm = {"float32": 100.0, "bfloat16": 200.0}
    eager = {"float32": 2.0, "bfloat16": 1.0}
    remembered(gemm=gemm, eager=eager, compiled={"bfloat16": 0.5}, compiling=20.0)
    assert choose(made, tmp_path / "short", steps=35) == Speed(
        bf16=True, compiled=False, measured=recall_only()
    )
    assert choose(made, tmp_path / "long", steps=50).compiled
    remembered(gemm=gemm, eager=eager, compiled={"bfloat16": 0.99}, compiling=20.0)
    assert not choose(made, tmp_path / "slow", steps=500_000).compiled
    remembered(gemm=gemm, eager={"float32": 1.0, "bfloat16": 5.0}, compiled={"float32": 0.5}, compiling=20.0)
    emulated = choose(made, tmp_path / "emulated", steps=500)
    assert (emulated.bf16, emulated.compiled) == (False, True)


def test_a_training_of_less_than_a_minute_is_not_compared_however_many_its_passes(
    made: Training, tmp_path: Path
) -> None:
    assert choose(made, tmp_path / "work", steps=100) == Speed(bf16=False, compiled=False)
    assert not get_memory_file().exists()


def test_what_compiling_gave_other_models_on_this_machine_tells_what_to_expect(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    assert estimate_compilation(file, "m") is None
    found = {"old": (90.0, 0.1), "a": (10.0, 1.5), "b": (20.0, 1.0), "c": (40.0, 0.5), "d": (40.0, 2.2)}
    for name, (seconds, compiled) in found.items():
        times = {"eager": {"bfloat16": 2.0, "float32": 3.0}, "compiled": {"bfloat16": compiled}}
        store_measurement(file, name, "other" if name == "old" else "m", Measured(compiling=seconds, **times))
    store_measurement(file, "eager", "m", Measured(eager={"float32": 3.0}))
    expected = estimate_compilation(file, "m")
    assert expected is not None
    assert expected.seconds == 30.0  # the median of four
    assert expected.saved == pytest.approx((0.25 + 0.5) / 2)


@pytest.mark.slow
def test_compiling_is_tried_where_it_paid_before_and_not_where_it_did_not(
    made: Training, measuring: None, tmp_path: Path
) -> None:
    choose(made, tmp_path / "first", steps=1, bf16=False)
    before = json.loads(get_memory_file().read_text(encoding="utf-8"))
    [entry] = before.values()
    passes = round(100 / recall_only().eager["float32"])  # a training of 100 s

    def tried(name: str, seconds: float, saved: float) -> bool:
        times = {"eager": {"float32": 1.0}, "compiled": {"float32": 1 - saved}, "compiling": seconds}
        other = {"other": entry | {"measured": times}}
        get_memory_file().write_text(json.dumps(before | other), encoding="utf-8")
        with torch.compiler.set_stance("force_eager"):  # compiling takes no time
            found = choose(made, tmp_path / name, steps=passes, bf16=False)
        assert found.measured is not None
        return "float32" in found.measured.compiled

    assert tried("quick", seconds=4.0, saved=0.3)
    assert not tried("slow", seconds=40.0, saved=0.3)
    assert not tried("useless", seconds=4.0, saved=-0.1)


def recall_only() -> Measured:
    """Return the only measurement there is."""
    [key] = json.loads(get_memory_file().read_text(encoding="utf-8"))
    return load_measurement(get_memory_file(), key)


def test_a_resumed_run_keeps_the_choice_whatever_the_machine_measures_by_then(
    made: Training, measuring: None, tmp_path: Path
) -> None:
    first = choose(made, tmp_path / "work")
    other = {"float32": 1.0, "bfloat16": 2.0} if first.bf16 else {"float32": 2.0, "bfloat16": 1.0}
    remembered(gemm={"float32": 1.0, "bfloat16": 2.0}, eager=other)
    assert choose(made, tmp_path / "work") == first
    assert choose(made, tmp_path / "new").bf16 is not first.bf16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "null",
        '{"KEY": 3}',
        '{"KEY": {"machine": "m", "measured": {"eager": {"float32": -1.0}}}}',
        '{"KEY": {"machine": "m", "measured": {"odd": 1}}}',
        '{"KEY": {"gemm": {}, "eager": {"float32": 1.0}, "compiled": {}, "compiling": null}}',
    ],
    ids=["empty", "cut", "list", "null", "number", "negative", "unknown", "measured on a busy machine"],
)
def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "speed.json"
    file.write_text(text.replace("KEY", "a"), encoding="utf-8")
    assert load_measurement(file, "a") == Measured()
    store_measurement(file, "a", "m", Measured(eager={"float32": 1.5}))
    assert load_measurement(file, "a").eager == {"float32": 1.5}


def test_a_memory_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    store_measurement(tmp_path / "file" / "speed.json", "a", "m", Measured())
    (tmp_path / "speed.json").mkdir()
    store_measurement(tmp_path / "speed.json", "a", "m", Measured())
    assert load_measurement(tmp_path / "speed.json", "a") == Measured()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe{")
    assert load_measurement(tmp_path / "bytes", "a") == Measured()


def test_the_memory_does_not_grow_without_end(tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    full = {str(number): Measured().model_dump() for number in range(MOST + 5)}
    file.write_text(json.dumps(full), encoding="utf-8")
    store_measurement(file, "new", "m", Measured(compiling=3.0))
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert len(kept) == MOST
    assert load_measurement(file, "new").compiling == 3.0
    assert "0" not in kept


def test_a_measurement_holds_for_one_shape_only() -> None:
    assert compute_key({"threads": 2}) == compute_key({"threads": 2}) != compute_key({"threads": 1})


@pytest.mark.slow
def test_what_is_measured_on_a_busy_machine_decides_once_and_is_not_remembered(
    made: Training,
    measuring: None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timing, "BUSY", BUSY)
    shares = BatchLayout(micro=48, accumulation=1, world=1)
    caplog.set_level("INFO")
    (tmp_path / "work").mkdir()
    with crowded(4):
        found = choose_speed({}, made, shares, 7, Length(30, None), tmp_path / "work")
    assert found.measured is not None
    assert found.measured.busy
    assert found.measured.eager["float32"] > 0  # bfloat16 is timed only where its products are faster
    assert not get_memory_file().exists()
    assert "other processes used the cores meanwhile, so this is not stored" in caplog.text
    assert choose_speed({}, made, shares, 7, Length(30, None), tmp_path / "work") == found  # as when resumed


@pytest.mark.slow
def test_a_measured_training_is_the_one_of_a_recipe_that_says_the_same(
    made: Training, measuring: None, context: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choice, "USUAL", Compilation(0.0, 0.5))  # so that it is tried
    auto = STEADY | {"bf16": "auto", "compile": "auto", "per_device_train_batch_size": 4}
    state = torch.get_rng_state()
    measured = train_model(made, auto, None, context("measured"))
    assert measured["speed"]["compiled"]
    assert not torch.equal(state, torch.get_rng_state())  # it was trained
    said = {"bf16": measured["bf16"], "compile": measured["compiled"]}
    again = parts(tmp_path / "again", CausalLM(length=32), "gpt2")
    plain = train_model(again, auto | said, None, context("said"))
    assert plain["speed"] is None
    for one, other in zip(made.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
