"""A killed run goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import small
from commands import LIMIT, start_hfpipe, wait_until
from huggingface_hub import ModelCard

import hfpipe
from hfpipe.store.artifacts import read_metrics
from hfpipe.training.checkpoints import (
    choose_checkpoint,
    find_fault,
    find_newest_checkpoint,
    get_chosen_checkpoint,
    write_manifest,
)


def killed_after(
    checkpoint: str, stage: str, path: Path, runs: Path, holds: Callable[[], Any] = lambda: True
) -> None:
    """Run a recipe until a stage has sealed a checkpoint and something is true, and kill it."""
    processes.kill_after(f"small/{stage}-*/.work/{checkpoint}/complete.json", path, runs, holds)


@contextmanager
def watched(path: Path, runs: Path) -> Iterator[Callable[[str], bool]]:
    """Run `hfpipe watch` in a process of its own; yields a function that tells whether it has said something.

    It ends with the recipe, and has said meanwhile that the recipe was running, interrupted and done.
    """
    command, output = ("watch", path, "--runs", runs, "--wait", str(LIMIT)), runs.with_suffix(".txt")
    with output.open("w") as file, start_hfpipe(*command, cwd=small.ROOT, stdout=file) as process:
        yield lambda text: text in output.read_text()
        process.wait(LIMIT)
    out = output.read_text()
    assert process.returncode == 0, out
    lines = [line.partition(",")[0] for line in out.splitlines()]
    assert any(line.endswith(": running") or ": running " in line for line in lines), out
    assert lines.index("pretrain: interrupted") > 0, out
    after = lines[lines.index("pretrain: interrupted") :]
    assert any(line.startswith("pretrain: done ") for line in after), out
    assert lines[-1].startswith("score: done "), out


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_in_both_trainings_ends_with_the_same_weights_bit_for_bit(
    tmp_path: Path, workers: int
) -> None:
    path = small.write(
        tmp_path,
        small.recipe(
            "bert",
            max_steps=60,
            save_steps=15,
            logging_steps=7,
            dataloader_num_workers=workers,
            num_train_epochs=4,
        ),
    )
    straight = hfpipe.run(hfpipe.load(path), tmp_path / "straight", say=lambda _: None)
    with watched(path, tmp_path / "killed") if not workers else nullcontext(lambda _: True) as has_said:
        running = partial(has_said, "pretrain: running")
        killed_after("checkpoint-15", "pretrain", path, tmp_path / "killed", running)
        wait_until(partial(has_said, "pretrain: interrupted"))
        killed_after("checkpoint-30", "topics", path, tmp_path / "killed")
        resumed = hfpipe.run(hfpipe.load(path), tmp_path / "killed", say=lambda _: None)
    for stage in ("pretrain", "topics"):
        assert "resuming from checkpoint-" in (resumed.folders[stage] / "stage.log").read_text()
        assert small.hash_weights(resumed.folders[stage]) == small.hash_weights(straight.folders[stage])
        mine, theirs = (run.reports[stage].model_dump() for run in (resumed, straight))
        assert small.history(mine) == small.history(theirs)
        assert small.train_loss(mine) == small.train_loss(theirs)
        logged, other = (read_metrics(run.folders[stage]) for run in (resumed, straight))
        places = [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in logged]
        assert places == [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in other]
        assert all(
            {"tokens_per_second", "memory_bytes", "time"} <= entry.keys()
            for entry in logged
            if "loss" in entry
        )
    assert [score.value for score in resumed.reports["score"].scores] == [
        score.value for score in straight.reports["score"].scores
    ]
    assert not list((tmp_path / "killed").rglob(".work"))
    card = ModelCard.load(resumed.folders["topics"] / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert f"{resumed.reports['score'].scores[0].value:.3f}" in card.text


def checkpoint(folder: Path, step: int, state: str = "{}") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights" * 10)
    (path / "trainer_state.json").write_text(state)
    write_manifest(path)
    return path


def test_the_newest_checkpoint_that_is_whole_is_taken(tmp_path: Path) -> None:
    good = checkpoint(tmp_path, 100)
    assert find_newest_checkpoint(tmp_path) == (good, [])
    truncated = checkpoint(tmp_path, 200)
    (truncated / "model.safetensors").write_bytes(b"weig")
    lacking = checkpoint(tmp_path, 300)
    (lacking / "trainer_state.json").unlink()
    unfinished = checkpoint(tmp_path, 1000)
    (unfinished / "complete.json").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert find_newest_checkpoint(tmp_path) == (
        good,
        [
            "checkpoint-1000: was not finished",
            "checkpoint-300: trainer_state.json is missing",
            "checkpoint-200: model.safetensors has 4 bytes instead of 70",
        ],
    )


DAMAGES = {
    "a flipped bit in the weights": ("model.safetensors", b"weightr" + b"weights" * 9),
    "zeros in the weights": ("model.safetensors", bytes(70)),
    "a flipped bit in the state": ("trainer_state.json", b"{}".replace(b"}", b"\xfd")),
    "zeros in the manifest": ("complete.json", bytes(300)),
    "an empty manifest": ("complete.json", b""),
    "a manifest with another digest": ("complete.json", b"DIGEST"),
}


@pytest.mark.parametrize(("name", "content"), DAMAGES.values(), ids=DAMAGES)
def test_a_checkpoint_whose_content_is_not_what_was_written_is_passed_over(
    tmp_path: Path, name: str, content: bytes
) -> None:
    good, damaged = checkpoint(tmp_path, 100), checkpoint(tmp_path, 200)
    if content == b"DIGEST":
        text = (damaged / name).read_bytes()
        content = text[:-8] + (b"0" if text[-8:-7] != b"0" else b"1") + text[-7:]
    (damaged / name).write_bytes(content)
    why = f"{name} is damaged"
    found, (line,) = find_newest_checkpoint(tmp_path)
    assert (found, line.partition(": content")[0][: len(why) + 16]) == (good, f"checkpoint-200: {why}")


def test_a_checkpoint_of_an_earlier_version_is_known_by_its_sizes(tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path, 100)
    (earlier / "complete.json").write_text('{"model.safetensors": 70, "trainer_state.json": 2}')
    assert find_newest_checkpoint(tmp_path) == (earlier, [])
    (earlier / "model.safetensors").write_bytes(b"weig")
    assert find_fault(earlier) == "model.safetensors has 4 bytes instead of 70"


def test_what_is_passed_over_is_named_and_put_aside_once(tmp_path: Path) -> None:
    good, damaged, unfinished = (checkpoint(tmp_path, step) for step in (100, 200, 300))
    (damaged / "trainer_state.json").unlink()
    write_manifest(damaged)  # as where it never was there
    (unfinished / "complete.json").unlink()
    assert choose_checkpoint(tmp_path, keeps_best=False) == [
        "checkpoint-300: was not finished; resumes from checkpoint-100",
        "checkpoint-200: trainer_state.json is missing; resumes from checkpoint-100",
    ]
    assert get_chosen_checkpoint(tmp_path) == good
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-100",
        "resume.json",
        "unused-checkpoint-200",
    ]
    assert choose_checkpoint(tmp_path, keeps_best=False) == []
    (good / "model.safetensors").write_bytes(bytes(70))
    (line,) = choose_checkpoint(tmp_path, keeps_best=False)
    assert line.endswith("; resumes from the beginning")
    assert get_chosen_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["a flipped bit", "its folder removed"])
def test_where_the_best_model_is_kept_it_has_to_be_whole_as_well(tmp_path: Path, damage: str) -> None:
    first, best = checkpoint(tmp_path, 100), checkpoint(tmp_path, 200)
    last = checkpoint(tmp_path, 300, '{"best_global_step": 200}')
    assert find_newest_checkpoint(tmp_path, keeps_best=True) == (last, [])
    if damage == "a flipped bit":
        (best / "model.safetensors").write_bytes(b"weightr" + b"weights" * 9)
    else:
        shutil.rmtree(best)
    found, passed = find_newest_checkpoint(tmp_path, keeps_best=True)
    assert found == first
    assert passed[0].startswith("checkpoint-300: the best one before it, checkpoint-200: ")
    assert find_newest_checkpoint(tmp_path) == (last, [])


def test_a_folder_without_checkpoints_starts_from_scratch(tmp_path: Path) -> None:
    assert find_newest_checkpoint(tmp_path) == (None, [])
    assert find_fault(tmp_path) == "was not finished"
