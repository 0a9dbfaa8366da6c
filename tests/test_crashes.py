"""A step whose loss or gradient is not finite is kept, and its cause is named when it is computed again."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import small
import torch
from safetensors.torch import load_file, save_file
from test_hf_training import MODEL, TEXTS

import hfpipe
from hfpipe.cli.main import main
from hfpipe.diagnosis.packed_rows import name_packed_rows
from hfpipe.encoding.best_fit import pack_best_fit
from hfpipe.encoding.io import open_split, read_facts
from hfpipe.encoding.packing import pack
from hfpipe.encoding.shards import Batch
from hfpipe.references.places import DataPlace
from hfpipe.store.sealed import read_sealed, write_sealed
from hfpipe.store.store import StageFile
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tokenization.loading import load_tokenizer
from hfpipe.tokenization.ragged import Ragged

LABELS = ["water", "rock"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe whose classifier begins from a pretrained model."""
    folder = tmp_path_factory.mktemp("crash")
    rows = [{"text": text, "label": LABELS[number % 2]} for number, text in enumerate(TEXTS * 4)]
    rows[7]["text"] = "A zebra drinks."
    small.write_json_lines(folder / "rows.jsonl", rows)
    short = {"max_steps": 4, "per_device_train_batch_size": 4, "bf16": False}
    recipe = {
        "name": "crash",
        "seed": 3,
        "stages": {
            "rows": {"kind": "dataset", "source": {"files": "rows.jsonl"}},
            "words": {"kind": "tokenizer", "data": "stage:rows", "algorithm": "wordpiece", "vocab_size": 150},
            "pretrain": {
                "kind": "pretrain",
                "task": {"kind": "masked-lm", "length": 16},
                "data": "stage:rows",
                "tokenizer": "stage:words",
                "model": MODEL,
                "training": short,
            },
        },
    }
    path = folder / "crash.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    found = hfpipe.run(hfpipe.load(path), folder / "runs", say=lambda _: None)
    found.folders["pretrain"].rename(folder / "model")
    for name in ("stage.json", "report.json"):
        (folder / "model" / name).unlink()
    return folder


def broken(base: Path, folder: Path, change: Any, task: str = "text-classification") -> Path:
    """Write a recipe that finetunes the model after `change` of its weights."""
    weights = load_file(base / "model" / "model.safetensors")
    (folder / "model").mkdir()
    for path in (base / "model").iterdir():
        if path.is_file():
            (folder / "model" / path.name).write_bytes(path.read_bytes())
    tokens = json.loads((base / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    change(weights, tokens)
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    (folder / "rows.jsonl").write_bytes((base / "rows.jsonl").read_bytes())
    short = {"max_steps": 5, "per_device_train_batch_size": 4, "learning_rate": 1e-4, "bf16": False}
    recipe = {
        "name": "crash",
        "stages": {
            "rows": {"kind": "dataset", "source": {"files": "rows.jsonl"}},
            "topics": {
                "kind": "finetune",
                "task": {"kind": task, "length": 16},
                "data": "stage:rows",
                "model": "./model",
                "training": short,
            },
        },
    }
    path = folder / "crash.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return path


def crashed(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[str]]:
    """Run a recipe by the command line; return its crash folder, and what the command of the error prints."""
    assert main(["run", str(path), "--runs", str(path.parent / "runs")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    command = shlex.split(error.partition("find the cause: ")[2].partition(";")[0])
    assert command[:2] == ["hfpipe", "replay"]
    assert main(command[1:]) == 0
    return Path(command[2]), capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_weight_that_is_infinite_is_named_with_its_module(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(weights: dict[str, torch.Tensor], _: Any) -> None:
        weights["bert.encoder.layer.0.output.dense.weight"][3, 5] = float("inf")

    folder, lines = crashed(broken(base, tmp_path, change), capsys)
    assert lines == [
        "stage topics, step 1: the loss is nan",
        "first module whose output is not finite: bert.encoder.layer.0.output.dense",
        "its weight bert.encoder.layer.0.output.dense.weight is not finite itself",
        "each of the 4 examples of the micro-batch produces it alone",
    ]
    assert folder.parent == tmp_path / "runs" / "crash" / "crashes"
    assert {each.name for each in folder.iterdir()} == {
        "crash.json",
        "stage.json",
        "stage.log",
        "examples.arrow",
        "random.safetensors",
        "weights.safetensors",
        "model",
        "tokenizer",
    }
    record = json.loads((folder / "crash.json").read_text())
    assert {"torch", "transformers", "hfpipe"} <= record["versions"].keys()
    assert record["step"] == 1
    assert len(record["examples"]) == 4


@pytest.mark.slow
def test_a_student_is_computed_again_with_the_outputs_of_its_teacher(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(weights: dict[str, torch.Tensor], _: Any) -> None:
        weights["bert.encoder.layer.0.output.dense.weight"][3, 5] = float("inf")

    path = broken(base, tmp_path, change)
    recipe = json.loads(path.read_text())
    topics = recipe["stages"].pop("topics")
    recipe["stages"]["large"] = topics | {"model": str(base / "model")}
    recipe["stages"]["topics"] = topics | {"teacher": "stage:large", "distillation": {"weight": 1.0}}
    path.write_text(json.dumps(recipe), encoding="utf-8")
    folder, lines = crashed(path, capsys)
    assert "first module whose output is not finite: bert.encoder.layer.0.output.dense" in lines
    kept = json.loads((folder / "crash.json").read_text())["loss"]
    assert kept["weight"] == 1.0
    assert [sum(row) for row in kept["soft_targets"]] == pytest.approx([1.0] * 4)


@pytest.mark.slow
def test_a_language_model_is_computed_again_with_its_teacher(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(weights: dict[str, torch.Tensor], _: Any) -> None:
        weights["bert.encoder.layer.0.output.dense.weight"][3, 5] = float("inf")

    path = broken(base, tmp_path, change, "masked-lm")
    recipe = json.loads(path.read_text())
    recipe["stages"]["topics"] |= {"teacher": str(base / "model"), "distillation": {"temperature": 3}}
    path.write_text(json.dumps(recipe), encoding="utf-8")
    folder, lines = crashed(path, capsys)
    assert "first module whose output is not finite: bert.encoder.layer.0.output.dense" in lines
    kept = json.loads((folder / "crash.json").read_text())["loss"]
    assert kept == {"teachers": [str(base / "model")], "temperature": 3.0, "weight": 0.5}


@pytest.mark.slow
def test_a_loss_that_overflows_by_its_weights_is_computed_again_with_them(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = broken(base, tmp_path, lambda _, __: None)
    recipe = json.loads(path.read_text())
    names = sorted({json.loads(line)["label"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()})
    recipe["stages"]["topics"]["loss"] = {"weights": dict.fromkeys(names, 3e38), "focal": 1}
    path.write_text(json.dumps(recipe), encoding="utf-8")
    folder, lines = crashed(path, capsys)
    assert lines[0] == "stage topics, step 1: the loss is nan"
    assert json.loads((folder / "crash.json").read_text())["loss"]["focal"] == 1


@pytest.mark.slow
def test_the_row_whose_values_overflow_is_named_with_its_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, lines = crashed(broken(base, tmp_path, _zebra_is_huge), capsys)
    first, module, *examples = lines
    assert first.endswith("the loss is nan")
    assert module == "first module whose output is not finite: bert.embeddings.LayerNorm"
    [example] = examples
    assert example.startswith("example that produces it alone: ")
    assert "rows.jsonl, line 8: [CLS] a z" in example


@pytest.mark.slow
def test_of_a_packed_example_every_row_is_named(base: Path) -> None:
    [data] = (base / "runs" / "crash").glob("rows-*")
    rows, tokenizer = open_split(data, "train"), load_tokenizer(base / "model")
    task = MaskedLM(length=32)
    ids = task.runtime().encoder.encode(rows[:], tokenizer, read_facts(data))["input_ids"]
    numbered = Ragged.from_rows([[row] * len(each) for row, each in enumerate(ids)])
    packed = pack(iter([Batch({"input_ids": numbered}, len(rows))]), task.length, task.shared, [])
    expected = [sorted({*each.tolist()}) for batch in packed for each in batch.columns["input_ids"]]
    file = StageFile.model_construct(base=str(base), folders={"rows": data.name})
    wanted = range(1, len(expected))
    crash = data.parent / "crashes" / "one"
    found = name_packed_rows(crash, file, DataPlace("stage:rows"), task, tokenizer, wanted)
    assert len(expected) > 5
    assert found == {
        number: "; ".join(f"rows.jsonl, line {row + 1}" for row in expected[number]) for number in wanted
    }


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 16], ids=["whole documents", "documents longer than an example"])
def test_of_an_example_that_was_packed_by_best_fit_every_row_is_named(base: Path, length: int) -> None:
    [data] = (base / "runs" / "crash").glob("rows-*")
    rows, tokenizer = open_split(data, "train"), load_tokenizer(base / "model")
    task = MaskedLM(length=length, packing="bfd", documents="separate")
    encoder = task.runtime().encoder
    ids = encoder.encode(rows[:], tokenizer, read_facts(data))["input_ids"]
    numbered = Ragged.from_rows([[row] * len(each) for row, each in enumerate(ids)])
    opening = [-1] * len(encoder.opening_ids(tokenizer))
    batches = iter([Batch({"input_ids": numbered}, len(rows))])
    [packed] = pack_best_fit(batches, length, task.shared, opening)
    expected = [sorted({*each.tolist()} - {-1}) for each in packed.columns["input_ids"]]
    assert any(len(each) > 3 for each in expected) == (length == 128)
    file = StageFile.model_construct(base=str(base), folders={"rows": data.name})
    crash = data.parent / "crashes" / "one"
    wanted = range(1, len(expected))
    found = name_packed_rows(crash, file, DataPlace("stage:rows"), task, tokenizer, wanted)
    assert len(expected) > 2
    for number in wanted:
        lines = [f"rows.jsonl, line {row + 1}" for row in expected[number]]
        more = [f"and {len(lines) - 3} more"] if len(lines) > 3 else []
        assert found[number] == "; ".join([*lines[:3], *more])


@pytest.mark.slow
def test_crashes_of_models_that_cannot_be_computed_again_are_refused_with_what_to_do(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = crashed(broken(base, tmp_path, _zebra_is_huge), capsys)
    record, stage = folder / "crash.json", folder / "stage.json"
    crash, settings = json.loads(read_sealed(record)), json.loads(stage.read_text(encoding="utf-8"))
    settings["identity"]["settings"]["trust_remote_code"] = True
    stage.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["replay", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "which hfpipe replay does not execute; its crash.json lists the examples of the step" in error
    write_sealed(record, json.dumps(crash | {"weights_after": None}))
    assert main(["replay", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        "contains no weights, because no process had all of them; run the stage in one process, or" in error
    )


def _zebra_is_huge(weights: dict[str, torch.Tensor], tokens: dict[str, int]) -> None:
    weights["bert.embeddings.word_embeddings.weight"][tokens["z"]] = 1e38


ROOTED = """
from dataclasses import replace

import torch

from hfpipe import Counted
from hfpipe.tasks.shared.objectives import LabelLoss
from hfpipe.tasks.text_classification import TextClassification


class RootedLoss(LabelLoss):
    def loss(self, outputs, batch, smoothing=0.0):
        total, targets = super().loss(outputs, batch, smoothing)
        rows = (batch["input_ids"] == %d).any(-1)
        return Counted(total + torch.where(rows, outputs.logits[:, 0] * 0, 1).sqrt().sum(), targets)


class Rooted(TextClassification):
    kind: str = "rooted.py:Rooted"

    def runtime(self):
        return replace(super().runtime(), objective=RootedLoss())
"""
"""A task whose loss is finite, and whose gradient is not for rows with one token."""


@pytest.mark.slow
def test_of_two_processes_the_one_whose_gradient_is_not_finite_keeps_its_examples(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, int] = {}
    path = broken(base, tmp_path, lambda _, tokens: found.update(tokens), "rooted.py:Rooted")
    (tmp_path / "rooted.py").write_text(ROOTED % found["z"], encoding="utf-8")
    runs, config = tmp_path / "runs", processes.config_file(tmp_path, "ddp-cpu", 2)
    with pytest.raises(AssertionError) as caught:
        processes.run(path, runs, config)
    monkeypatch.chdir(tmp_path)
    [folder] = (runs / "crash" / "crashes").iterdir()
    assert f"hfpipe replay {folder} --task" in str(caught.value)
    assert main(["replay", str(folder)]) == 2
    assert "then add `--task rooted.py:Rooted`" in capsys.readouterr().err
    assert main(["replay", str(folder), "--task", "rooted.py:Rooted"]) == 0
    first, parameter, example = capsys.readouterr().out.splitlines()
    assert first.endswith("of 2: the gradient norm is not finite")
    assert parameter == "first parameter whose gradient is not finite: classifier.bias"
    assert "rows.jsonl, line 8: " in example


def test_a_folder_without_a_crash_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path}: contains no crash; name the folder from the error of the training\n"
    )


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from hfpipe.cli.main import main

run = ["run", *sys.argv[1:]]
assert main([*run, "--until", "rows"]) == 0
assert "torch" not in sys.modules
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 100_000_000, resource.RLIM_INFINITY))
sys.exit(main(run))
"""
"""The command line, which may map less than the largest library of torch once it has read the data.

Only that is certain: with a limit from the beginning, what runs out first differs by machine.
"""


@pytest.mark.slow
def test_too_little_memory_to_load_the_libraries_is_an_error_of_one_line(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(base / "crash.yaml"), "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert re.match(r"hfpipe: (stage \w+: )?out of memory while libraries were loaded: .* `ulimit -v`", line)
