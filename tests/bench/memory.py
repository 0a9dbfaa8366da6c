"""Compares the memory that `plan --sizes` estimates on a CPU with the peak of a training process.

Prints a table in Markdown. Takes about ten minutes on two cores; see README.md in this folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's hfpipe, installed or not

import yaml
from cpu_parts.records import Settings
from cpu_parts.works import WORKS, Work
from parts.models import Bench
from parts.processes import OFFLINE
from parts.records import ROOT

import hfpipe
from hfpipe import api
from hfpipe.runner import Launch

STEPS, UNEVEN_STEPS = 8, 40
"""Steps of a training; batches of many shapes need some before the heap has its size."""
MEASURED = ("masked-lm-4x256", "causal-lm-6x384", "classification-minilm", "seq2seq-4x256")
LLAMA = Bench(
    "llama-58m",
    "llama",
    {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    32_000,
    256,
    4,
)
SPLIT = Work("causal-lm-llama-58m", "causal-lm", 40, 6, 4, 256, LLAMA)
CONFIGS = ("single", "ddp-cpu", "fsdp")
"""Files of recipes/accelerate that are measured with `SPLIT`; the last two in two processes."""


def main() -> int:
    """Print the estimate and the peak of every training, the first in float32 and in bfloat16."""
    print("| training | numbers | plan | measured | plan ÷ measured |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for work in (each for each in WORKS if each.name in MEASURED):
            for bf16 in (False, True):
                steps = UNEVEN_STEPS if work.uneven else STEPS
                each, place = replace(work, steps=steps, rows=8 * work.batch), folder / work.name / str(bf16)
                _print(each.name, bf16, *_measure(each, None, bf16=bf16, folder=place))
        for name in CONFIGS:
            config = _write_config(folder, name)
            found = _measure(SPLIT, config, bf16=False, folder=folder / name)
            _print(f"{SPLIT.name}, {name}", False, *found)
    return 0


def _print(name: str, bf16: bool, estimate: float, peak: float) -> None:
    numbers = "bfloat16" if bf16 else "float32"
    line = f"| {name} | {numbers} | {estimate / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {estimate / peak:.2f} |"
    print(line, flush=True)


def _write_config(folder: Path, name: str) -> Path:
    """Write a file of recipes/accelerate for the CPU, where there are several in two processes."""
    settings = yaml.safe_load((ROOT / "recipes" / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8"))
    settings.pop("gpu_ids", None)
    settings |= {"use_cpu": True, "num_processes": 1 if name == "single" else 2}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def _measure(work: Work, config: Path | None, *, bf16: bool, folder: Path) -> tuple[float, float]:
    """Return the bytes that `plan --sizes` states for a training, and the peak of its first process."""
    folder.mkdir(parents=True)
    settings = Settings(
        toy=False, work=folder, deadline=0.0, round=0, profile=False, seconds=0.0, megabytes=0
    )
    settings.data.mkdir()
    work.write(settings)
    recipe = work.recipe(settings)
    recipe["stages"]["train"]["training"] |= {"bf16": bf16, "compile": False}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    runs = folder / "runs"
    loaded = hfpipe.load(path)
    hfpipe.run(loaded, runs, until="texts", say=lambda _: None)
    found = api.sizes(loaded, api.plan(loaded, runs), launch=Launch(config=config))
    sizes = {size.stage: size.amounts for size in found}
    command = [sys.executable, "-m", "hfpipe", "run", str(path), "--runs", str(runs)]
    command += ["--accelerate", str(config)] if config is not None else []
    environ = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environ, check=True, capture_output=True)
    return sizes["train"]["memory per device"].value, _read_peak(runs)


def _read_peak(runs: Path) -> float:
    """Return the largest resident memory that the training logged."""
    [metrics] = runs.glob("*/train-*/metrics.jsonl")
    lines: list[dict[str, Any]] = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    return max(float(line.get("memory_bytes", 0)) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
