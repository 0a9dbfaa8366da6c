"""Every way to split a training over processes gives what one process gives, in a folder that opens."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import pytest
import small
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hfpipe
from hfpipe.errors import StageError
from hfpipe.runs.run import Run
from hfpipe.training.checkpoints import write_manifest

LLAMA = {
    "type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
T5 = {
    "type": "t5",
    "d_model": 32,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "d_kv": 16,
    "dropout_rate": 0.0,
}
CLOSE = {"weights": 1e-4, "perplexity": 1e-2, "validation perplexity": 1e-2}
"""Largest difference that passes for rounding; AdamW turns one of the smallest gradients into a step."""


@dataclass(frozen=True)
class Alone:
    """A recipe, and what one process makes of it."""

    path: Path
    run: Run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("alone")
    recipe = small.recipe(per_device_train_batch_size=12, save_steps=3, learning_rate=1e-3)
    stages = recipe["stages"]
    stages["words"] |= {"algorithm": "bpe"}
    stages["pretrain"] |= {"task": {"kind": "causal-lm", "length": 32}, "model": LLAMA}
    stages["score"] = {"kind": "evaluate", "model": "stage:pretrain", "data": "stage:wiki"}
    del stages["topics"]
    path = small.write(folder, recipe)
    return Alone(path, hfpipe.run(hfpipe.load(path), folder / "runs", say=lambda _: None))


def held(run: Run) -> list[float]:
    """Return the share of the parameters that each process of a training said it holds."""
    lines = (run.folders["pretrain"] / "stage.log").read_text(encoding="utf-8")
    found = re.findall(r"process (\d+) holds ([\d,]+) of ([\d,]+) parameters", lines)
    shares = {rank: int(mine.replace(",", "")) / int(all_.replace(",", "")) for rank, mine, all_ in found}
    return list(shares.values())


def prepared(alone: Alone, runs: Path) -> Path:
    """Return a folder that holds the data and the tokenizer already."""
    for stage in ("wiki", "words"):
        source = alone.run.folders[stage]
        shutil.copytree(source, runs / "small" / source.name)
    return runs


def outcome(run: Run) -> dict[str, Any]:
    report = run.reports["pretrain"]
    validation = report.facts["validation"]
    return {
        "losses": [step["loss"] for step in small.history(report.model_dump())],
        "gradient norms": [step["grad_norm"] for step in small.history(report.model_dump())],
        "train_loss": [small.train_loss(report.model_dump())],
        **{f"validation {name}": [value] for name, value in validation.items() if name != "runtime"},
        **{score.metric: [score.value] for score in run.reports["score"].scores},
    }


def check_equal(run: Run, alone: Alone) -> None:
    """Compare losses, scores and weights with those of one process, and open the folder with Transformers."""
    mine, theirs = outcome(run), outcome(alone.run)
    folder, other = run.folders["pretrain"], alone.run.folders["pretrain"]
    weights, expected = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert weights.keys() == expected.keys()
    mine["weights"] = [(weights[name] - expected[name]).abs().max().item() for name in expected]
    theirs["weights"] = [0.0] * len(expected)
    for what, values in theirs.items():
        deviation = max(abs(one - two) for one, two in zip(mine[what], values, strict=True))
        print(f"{what}: {deviation:.1e}")
        assert deviation <= CLOSE.get(what, 1e-5), what
    assert (folder / "config.json").read_text() == (other / "config.json").read_text()
    opened, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert opened.num_parameters() == run.reports["pretrain"].facts["parameters"]
    assert run.reports["pretrain"].facts == alone.run.reports["pretrain"].facts | {
        name: run.reports["pretrain"].facts[name] for name in ("history", "train_seconds", "validation")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "sizes", "parts"),
    [
        ("ddp-cpu", 3, {}, 1),
        ("fsdp", 3, {}, 3),
        ("hybrid-shard", 4, {"dp_replicate": 2, "dp_shard": 2}, 2),
        ("tensor-parallel", 4, {"dp_shard": 2}, 4),
    ],
    ids=lambda value: (
        "".join(f"-{name}{size}" for name, size in value.items()) if isinstance(value, dict) else str(value)
    ),
)
def test_a_split_training_gives_what_one_process_gives(
    alone: Alone, tmp_path: Path, name: str, count: int, sizes: dict[str, int], parts: int
) -> None:
    runs = prepared(alone, tmp_path / "runs")
    processes.run(alone.path, runs, processes.config_file(tmp_path, name, count, **sizes))
    run = hfpipe.open(alone.path, runs)
    check_equal(run, alone)
    if parts > 1:
        assert len(held(run)) == count
        assert max(held(run)) < 1.4 / parts  # norms are whole, and rows are not split finely


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "resumed"),
    [
        (("fsdp", 2), None),
        (("tensor-parallel", 2), ("fsdp", 3)),
        (("ddp-cpu", 2), ("tensor-parallel", 2)),
    ],
    ids=lambda value: "-".join(map(str, value or ("alone",))),
)
def test_a_checkpoint_resumes_with_another_number_of_processes_and_split_another_way(
    alone: Alone, tmp_path: Path, begun: tuple[str, int], resumed: tuple[str, int] | None
) -> None:
    runs = prepared(alone, tmp_path / "runs")
    sealed = "small/pretrain-*/.work/checkpoint-3/complete.json"
    processes.run(alone.path, runs, processes.config_file(tmp_path, *begun), killed_after=sealed)
    if resumed is None:
        (checkpoint,) = runs.glob("small/pretrain-*/.work/checkpoint-3")
        state = (checkpoint / "optimizer.pt").read_bytes()
        (checkpoint / "optimizer.pt").unlink()
        write_manifest(checkpoint)
        with pytest.raises(StageError, match=r"has no optimizer\.pt, like checkpoints of DeepSpeed; resume"):
            hfpipe.run(hfpipe.load(alone.path), runs, say=lambda _: None)
        (checkpoint / "optimizer.pt").write_bytes(state)
        write_manifest(checkpoint)
        hfpipe.run(hfpipe.load(alone.path), runs, say=lambda _: None)
    else:
        processes.run(alone.path, runs, processes.config_file(tmp_path, *resumed))
    run = hfpipe.open(alone.path, runs)
    assert "resuming from checkpoint-3" in (run.folders["pretrain"] / "stage.log").read_text()
    check_equal(run, alone)


@pytest.mark.slow
def test_run_starts_an_fsdp_config_through_the_launcher(alone: Alone, tmp_path: Path) -> None:
    runs = prepared(alone, tmp_path / "runs")
    config = processes.config_file(tmp_path, "fsdp", 2)
    until = ("--until", "pretrain")
    done = small.hfpipe("run", alone.path, "--runs", runs, "--accelerate", config, *until)
    assert done.returncode == 0, done.stderr[-3000:]
    hfpipe.run(hfpipe.load(alone.path), runs, say=lambda _: None)
    run = hfpipe.open(alone.path, runs)
    check_equal(run, alone)
    assert max(held(run)) < 0.7


@pytest.mark.slow
def test_fsdp_trains_models_that_use_a_weight_in_several_places(tmp_path: Path) -> None:
    recipe = small.recipe("bert", per_device_train_batch_size=12)
    stages = recipe["stages"]
    stages["sentinels"] = stages["words"] | {"algorithm": "bpe", "style": "t5"}
    task = {"kind": "denoising", "length": 32}
    stages["denoise"] = stages["pretrain"] | {"task": task, "tokenizer": "stage:sentinels", "model": T5}
    path = small.write(tmp_path, recipe)
    one = hfpipe.run(hfpipe.load(path), tmp_path / "one", say=lambda _: None)
    processes.run(path, tmp_path / "two", processes.config_file(tmp_path, "fsdp", 2))
    two = hfpipe.open(path, tmp_path / "two")
    for stage in ("pretrain", "topics", "denoise"):
        losses = [
            [step["loss"] for step in small.history(run.reports[stage].model_dump())] for run in (one, two)
        ]
        assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    scores = [[score.value for score in run.reports["score"].scores] for run in (one, two)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)  # rank metrics jump where scores are nearly equal


@pytest.mark.slow
def test_a_model_that_does_not_say_how_it_is_split_is_named_with_what_to_take(
    tmp_path: Path,
) -> None:
    recipe = small.recipe("bert")
    del recipe["stages"]["topics"], recipe["stages"]["score"]
    config = processes.config_file(tmp_path, "tensor-parallel", 2)
    with pytest.raises(AssertionError, match=r"bert cannot be split: .*use a model with a tp_plan"):
        processes.run(small.write(tmp_path, recipe), tmp_path / "runs", config)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepspeed-zero2", "deepspeed-zero3"])
def test_deepspeed_gives_what_one_process_gives(
    alone: Alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The first run on a machine compiles DeepSpeed's communication for CPUs, which takes a minute."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed; pip install 'hfpipe[deepspeed]'")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    runs = prepared(alone, tmp_path / "runs")
    processes.run(alone.path, runs, processes.config_file(tmp_path, name, 2))
    check_equal(hfpipe.open(alone.path, runs), alone)
