"""The doctor finds trainings whose numbers depend on how they are run, and no others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import small
from torch._dynamo.utils import counters

import hfpipe
from hfpipe.cli.main import main
from hfpipe.training.trainer import TaskTrainer

MEAN = """
from dataclasses import replace

from hfpipe import Counted
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.shared.objectives import TokenCrossEntropy


class Mean(TokenCrossEntropy):
    def count(self, batch):
        return super().count(batch).clamp(max=1)

    def loss(self, outputs, batch, smoothing=0.0):
        total, targets = super().loss(outputs, batch, smoothing)
        return Counted(total / targets, targets.clamp(max=1))


class MeanLoss(MaskedLM):
    kind: str = "mean.py:MeanLoss"

    def runtime(self):
        return replace(super().runtime(), objective=Mean())
"""
"""A task whose loss is a mean over the targets of a micro-batch."""


def recipe(folder: Path, **changes: Any) -> Path:
    made = small.recipe("bert")
    for stage, settings in changes.items():
        made["stages"][stage] |= settings
    return small.write(folder, made)


def statuses(found: list[Any]) -> dict[str, bool | None]:
    return {each.check: each.passed for each in found}


@pytest.mark.slow
def test_a_sound_recipe_passes_and_what_does_not_apply_is_named(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    found = hfpipe.doctor(
        hfpipe.load(path),
        "topics",
        tmp_path / "runs",
        only=["accumulation", "packing", "resume", "processes"],
    )
    assert statuses(found) == {
        "accumulation 1 v 4": True,
        "processes 1 v 2": True,
        "packed v separate documents": None,
        "resumed v straight": True,
    }, found
    [unpacked] = (each for each in found if each.passed is None)
    assert unpacked.reason == "text-classification does not pack documents"
    assert "as stage:wiki does not exist yet" in unpacked.note
    assert not (tmp_path / "runs" / "small").exists()


@pytest.mark.slow
def test_packed_documents_and_bfloat16_are_compared_on_a_pretraining(tmp_path: Path) -> None:
    path = recipe(tmp_path, pretrain={"training": {"bf16": True}})
    found = hfpipe.doctor(hfpipe.load(path), "pretrain", tmp_path / "runs", only=["packing", "bf16"])
    assert statuses(found) == {"packed v separate documents": True, "bfloat16 v float32": True}, found
    assert 1e-4 < found[1].gradient < 1e-1


@pytest.mark.slow
def test_a_task_whose_loss_is_a_mean_over_a_micro_batch_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mean.py").write_text(MEAN, encoding="utf-8")
    path = recipe(tmp_path, pretrain={"task": {"kind": "mean.py:MeanLoss", "length": 32}})
    command = ["doctor", str(path), "pretrain", "--runs", str(tmp_path / "runs"), "--only", "accumulation"]
    assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    [line] = (line for line in lines if line.startswith("accumulation 1 v 4"))
    assert line.split()[-1] == "fail"


@pytest.mark.slow
def test_the_loss_of_the_plain_trainer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heads return the mean over a micro-batch, and it adds these up."""

    def compute_loss(
        self: TaskTrainer,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        outputs = model(**{name: each for name, each in inputs.items() if name[0] != "_"})
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    path = recipe(tmp_path)
    monkeypatch.setattr(TaskTrainer, "compute_loss", compute_loss)
    [found] = hfpipe.doctor(hfpipe.load(path), "topics", tmp_path / "runs", only=["accumulation"])
    assert found.passed is False
    assert found.loss == pytest.approx(3, rel=0.1)  # four means in place of one


OTHER = """
from dataclasses import replace

import torch
from hfpipe import Counted
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.shared.objectives import TokenCrossEntropy


class Other(TokenCrossEntropy):
    def loss(self, outputs, batch, smoothing=0.0):
        total, targets = super().loss(outputs, batch, smoothing)
        return Counted(total * (1.01 if torch.compiler.is_compiling() else 1.0), targets)


class OtherLoss(MaskedLM):
    kind: str = "other.py:OtherLoss"

    def runtime(self):
        return replace(super().runtime(), objective=Other())
"""
"""A task whose loss is another one where it is compiled."""
COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_training_equals_an_eager_one_and_a_loss_that_differs_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(OTHER, encoding="utf-8")
    before = counters["stats"]["unique_graphs"]
    made: dict[str, Any] = {"model": small.MODELS["bert"] | {"num_hidden_layers": 1}}
    path = recipe(tmp_path, pretrain=made)
    [sound] = hfpipe.doctor(hfpipe.load(path), "pretrain", tmp_path / "runs", only=["compile"])
    assert sound.passed, sound
    assert counters["stats"]["unique_graphs"] > before  # or the eager training was compared with itself
    path = recipe(tmp_path, pretrain=made | {"task": {"kind": "other.py:OtherLoss", "length": 32}})
    [other] = hfpipe.doctor(hfpipe.load(path), "pretrain", tmp_path / "runs", only=["compile"])
    assert other.passed is False
    assert not other.failure
    assert 1e-3 < other.loss < 1.1e-2


@pytest.mark.slow
def test_without_a_compiler_the_compiled_training_is_not_compared_and_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [found] = hfpipe.doctor(hfpipe.load(recipe(tmp_path)), "topics", tmp_path / "runs", only=["compile"])
    assert found.passed is None
    assert found.reason == "torch.compile needs a C++ compiler on a CPU, and there is none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wiki"], "has no training stage 'wiki'; it has pretrain, topics"),
        (["--only", "speed"], "--only speed: there is no such comparison; write one of accumulation, "),
    ],
)
def test_an_unknown_stage_or_comparison_is_reported_with_the_known_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["doctor", str(recipe(tmp_path)), *arguments]) == 2
    assert message in capsys.readouterr().err
