"""Several processes give what one gives, however they are started."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import processes
import pytest
import small

import hfpipe
from hfpipe.cli.main import main
from hfpipe.runs.run import Run

LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
WEIGHTED = {"loss": {"weights": "balanced", "focal": 2}, "calibrate": ["temperature"]}
RANKED = ("roc_auc", "average_precision")
"""Metrics that jump where two rows whose scores are equal but for rounding change places: for them the
scores of each row are compared instead."""


def outcome(run: Run, stages: Sequence[str] = ("pretrain", "topics")) -> dict[str, Any]:
    """Return every number of a run: loss and gradient norm by step, the scores, and those of each row."""
    steps = {
        stage: [(step["loss"], step["grad_norm"]) for step in small.history(run.reports[stage].model_dump())]
        for stage in stages
    }
    predictions = pd.read_parquet(run.folders["score"] / "predictions.parquet").sort_values("row")
    scores = {
        score.metric: (score.value, score.low, score.high, score.n)
        for score in run.reports["score"].scores
        if score.metric not in RANKED
    }
    return steps | scores | {"rows": np.stack(predictions["scores"].tolist()).tolist()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "arguments", "launcher", "finetune"),
    [
        ("bert", ("--processes", "2"), (), {}),
        ("modernbert", (), LAUNCH, WEIGHTED),
    ],  # --accelerate: test_sharding.py
    ids=["bert --processes", "modernbert accelerate launch"],
)
def test_two_processes_give_the_losses_gradients_and_scores_of_one(
    tmp_path: Path,
    model: str,
    arguments: tuple[str, ...],
    launcher: tuple[str, ...],
    finetune: dict[str, Any],
) -> None:
    recipe = small.recipe(model)
    recipe["stages"]["topics"] |= finetune
    path = small.write(tmp_path, recipe)
    alone = outcome(hfpipe.run(hfpipe.load(path), tmp_path / "alone", say=lambda _: None))
    done = small.hfpipe("run", path, "--runs", tmp_path / "together", *arguments, launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "result: accuracy" in done.stdout
    assert done.stdout.count("result: accuracy") == 1
    together = outcome(hfpipe.open(path, tmp_path / "together"))
    assert together.keys() == alone.keys()
    for key, value in alone.items():
        assert len(together[key]) == len(value)
        for mine, theirs in zip(together[key], value, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-4), key


@pytest.mark.slow
def test_a_step_that_the_processes_cannot_share_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.write(tmp_path, small.recipe(per_device_train_batch_size=7))
    assert main(["run", str(path), "--runs", str(tmp_path / "runs"), "--processes", "2"]) == 2
    refused = capsys.readouterr().err
    assert "which 2 processes cannot share; make their product a multiple of 2" in refused
    assert not list((tmp_path / "runs").rglob("report.json"))


SLOW = """
import os, time
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification

class Slow(TextClassification):
    kind: str = "slow.py:Slow"

    def runtime(self):
        built = super().runtime()

        def metrics(facts):
            time.sleep(3 * int(os.environ.get("RANK", "0")))
            return built.evaluator.metrics(facts)

        baselines = {name: replace(each, metrics=metrics) for name, each in built.baselines.items()}
        return replace(built, baselines=baselines)
"""
"""A task that keeps every process but the first from reading a baseline at once."""


@pytest.mark.slow
def test_a_stage_is_not_cleared_away_while_another_process_still_reads_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    made = small.recipe("bert", max_steps=2)
    del made["stages"]["pretrain"]
    made["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    made["stages"]["score"]["task"] = {"kind": "slow.py:Slow", "length": 32}
    runs = tmp_path / "runs"
    path = small.write(tmp_path, made)
    processes.run(path, runs, processes.config_file(tmp_path, "ddp", 2))
    assert hfpipe.open(path, runs).reports["score"].scores
