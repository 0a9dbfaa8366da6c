"""A killed run goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
from huggingface_hub import ModelCard

import hfpipe
from hfpipe.store.artifacts import read_metrics
from hfpipe.training.checkpoints import fault, newest_checkpoint, passed_over, seal


def killed_after(checkpoint: str, stage: str, path: Path, runs: Path) -> None:
    """Run a recipe until a stage has sealed a checkpoint, and kill it."""
    command = [sys.executable, "-m", "hfpipe", "run", str(path), "--runs", str(runs)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=small.ROOT)
    try:
        deadline = time.monotonic() + 120
        while not list(runs.glob(f"small/{stage}-*/.work/{checkpoint}/complete.json")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_in_both_trainings_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, workers: int
) -> None:
    path = small.write(
        tmp_path,
        small.recipe("bert", max_steps=60, save_steps=15, dataloader_num_workers=workers, num_train_epochs=4),
    )
    straight = hfpipe.run(hfpipe.load(path), tmp_path / "straight", say=lambda _: None)
    killed_after("checkpoint-15", "pretrain", path, tmp_path / "killed")
    killed_after("checkpoint-30", "topics", path, tmp_path / "killed")
    resumed = hfpipe.run(hfpipe.load(path), tmp_path / "killed", say=lambda _: None)
    for stage in ("pretrain", "topics"):
        assert "goes on from checkpoint-" in (resumed.folders[stage] / "stage.log").read_text()
        assert weights(resumed.folders[stage]) == weights(straight.folders[stage])
        assert small.history(resumed.reports[stage].model_dump()) == small.history(
            straight.reports[stage].model_dump()
        )
        mine, other = (read_metrics(run.folders[stage]) for run in (resumed, straight))
        places = [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in mine]
        assert places == [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in other]
        assert all(
            {"tokens_per_second", "memory_bytes", "time"} <= entry.keys() for entry in mine if "loss" in entry
        )
    assert [score.value for score in resumed.reports["score"].scores] == [
        score.value for score in straight.reports["score"].scores
    ]
    assert not list((tmp_path / "killed").rglob(".work"))
    card = ModelCard.load(resumed.folders["topics"] / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert f"{resumed.reports['score'].scores[0].value:.3f}" in card.text


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights" * 10)
    (path / "trainer_state.json").write_text("{}")
    seal(path)
    return path


def test_the_newest_checkpoint_that_is_whole_is_taken(tmp_path: Path) -> None:
    good = checkpoint(tmp_path, 100)
    assert newest_checkpoint(tmp_path) == (good, [])
    truncated = checkpoint(tmp_path, 200)
    (truncated / "model.safetensors").write_bytes(b"weig")
    lacking = checkpoint(tmp_path, 300)
    (lacking / "trainer_state.json").unlink()
    unfinished = checkpoint(tmp_path, 1000)
    (unfinished / "complete.json").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_checkpoint(tmp_path) == (
        good,
        [
            "checkpoint-1000: was not finished",
            "checkpoint-300: trainer_state.json is missing",
            "checkpoint-200: model.safetensors has 4 bytes in place of 70",
        ],
    )


def test_a_checkpoint_that_never_had_a_trainer_state_is_passed_over_and_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, 100)
    orphaned = checkpoint(tmp_path, 200)
    (orphaned / "trainer_state.json").unlink()
    seal(orphaned)
    assert list(passed_over(tmp_path)) == [
        "checkpoint-200: trainer_state.json is missing; resumes from checkpoint-100"
    ]
    (tmp_path / "checkpoint-100" / "trainer_state.json").write_text("")
    assert [line.partition("; ")[2] for line in passed_over(tmp_path)] == ["resumes from the beginning"] * 2


def test_a_folder_without_checkpoints_starts_anew(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, [])
    assert fault(tmp_path) == "was not finished"
