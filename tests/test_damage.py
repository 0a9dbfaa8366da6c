"""What a disk changes in finished stages, checkpoints or encoded data is noticed before it is used."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

import hfpipe
from hfpipe.encoding.shards import Batch, Shards, State
from hfpipe.interruption import Interrupted
from hfpipe.runs.run import Run
from hfpipe.store.sealed import read_sealed, write_sealed
from hfpipe.training.checkpoints import find_newest_checkpoint


def flip(path: Path, random: np.random.Generator) -> None:
    """Flip one bit, and let the file have the times that it had."""
    content, found = bytearray(path.read_bytes()), path.stat()
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


TEXTS = st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers(), min_size=1, max_size=3)


@given(TEXTS, st.integers(0, 10**6))
@settings(max_examples=60)
def test_no_flipped_bit_of_a_sealed_file_goes_unnoticed(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], seed: int
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "a.json"
    write_sealed(path, json.dumps(content))
    assert json.loads(read_sealed(path)) == content
    flip(path, np.random.default_rng(seed))
    try:
        damaged = json.loads(read_sealed(path))
    except ValueError:
        return
    assert damaged.keys() != content.keys(), "the digest was not compared"  # its own name was hit


@dataclass(frozen=True)
class Finished:
    path: Path
    runs: Path
    run: Run


def recipe() -> dict[str, Any]:
    """Return a recipe without pretraining, whose checkpoints and log entries fall on different steps."""
    made = small.recipe("bert", max_steps=20, save_steps=5, logging_steps=3, save_total_limit=3)
    del made["stages"]["pretrain"]
    made["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    made["stages"]["score"]["baselines"] = ["majority"]
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run from the first stage to the last without an interruption."""
    folder = tmp_path_factory.mktemp("finished")
    path, runs = small.write(folder, recipe()), folder / "runs"
    return Finished(path, runs, hfpipe.run(hfpipe.load(path), runs, say=lambda _: None))


def copied(finished: Finished, folder: Path) -> Path:
    shutil.copytree(finished.runs, folder / "runs")
    return folder / "runs"


def damage(runs: Path) -> list[str]:
    return [line for each in hfpipe.verify(runs / "small") for line in each.damage]


@pytest.mark.slow
def test_each_flipped_bit_of_a_finished_run_is_found_and_its_file_named(
    finished: Finished, tmp_path: Path
) -> None:
    runs, random = copied(finished, tmp_path), np.random.default_rng(7)
    there = (
        path
        for path in runs.glob("small/**/*")
        if path.is_file() and path.name not in ("stage.log", "README.md")
    )
    files = [path for path in there if path.stat().st_size]
    assert len(files) > 20
    assert damage(runs) == []
    for path in files:
        kept = path.read_bytes()
        flip(path, random)
        lines = damage(runs)
        assert len(lines) == 1, path
        assert lines[0].startswith(f"{path}: "), lines
        assert lines[0].endswith("and run its recipe again, which recreates it")
        path.write_bytes(kept)
    assert damage(runs) == []


@pytest.mark.slow
def test_each_misspelt_key_of_a_stage_file_is_found(finished: Finished, tmp_path: Path) -> None:
    runs = copied(finished, tmp_path)
    (file,) = runs.glob("small/topics-*/stage.json")
    kept = file.read_text(encoding="utf-8")
    keys = [match.span(1) for match in re.finditer(r'"([a-z_.]+)":', kept)]
    assert len(keys) > 20
    for start, end in keys:
        file.write_text(kept[:start] + kept[start:end].upper() + kept[end:], encoding="utf-8")
        assert [line.partition(": ")[0] for line in damage(runs)] == [str(file)]


READ = {
    "Arrow files": ("wiki", "train/data-00000-of-00001.arrow", "topics.training.learning_rate=0.1"),
    "a tokenizer": ("words", "tokenizer.json", "topics.training.learning_rate=0.1"),
    "weights": ("topics", "model.safetensors", "score.resamples=200"),
    "a model's config": ("topics", "config.json", "score.resamples=200"),
    "a split's state": ("wiki", "test/state.json", "score.resamples=200"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name", "change"), READ.values(), ids=READ)
def test_a_stage_that_reads_a_damaged_file_refuses_and_names_it(
    finished: Finished, tmp_path: Path, stage: str, name: str, change: str
) -> None:
    runs = copied(finished, tmp_path)
    (folder,) = runs.glob(f"small/{stage}-*")
    flip(folder / name, np.random.default_rng(1))
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    with pytest.raises(hfpipe.StageError) as caught:
        hfpipe.run(hfpipe.load(finished.path, [change]), runs, say=lambda _: None)
    reader = change.partition(".")[0]
    assert str(caught.value) == (
        f"stage {reader}: {folder / name}: is damaged: its content is not what was written; "
        f"delete {folder} and run its recipe again, which recreates it"
    )
    kept = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert {path for path in before if kept.get(path) != before[path]} <= {runs / ".digests.json"}


@pytest.mark.slow
def test_predicting_comparing_and_reading_refuse_damaged_files(finished: Finished, tmp_path: Path) -> None:
    runs = copied(finished, tmp_path)
    weights, predictions = (
        next(runs.glob(name))
        for name in ("small/topics-*/model.safetensors", "small/score-*/predictions.parquet")
    )
    flip(weights, np.random.default_rng(2))
    with pytest.raises(hfpipe.StageError, match=re.escape(f"{weights}: is damaged")):
        hfpipe.predict(runs / "small:topics", ["The Nile"])
    flip(predictions, np.random.default_rng(3))
    with pytest.raises(hfpipe.StageError, match=re.escape(f"{predictions}: is damaged")):
        hfpipe.compare(finished.runs / "small", runs / "small")
    with pytest.raises(hfpipe.StageError, match=re.escape(f"{predictions}: is damaged")):
        hfpipe.open(runs / "small").predictions("score")
    report = predictions.with_name("report.json")
    text = report.read_text()
    report.write_text(
        re.sub(r'("value": 0\.)(\d)', lambda found: found[1] + str((int(found[2]) + 1) % 10), text)
    )
    with pytest.raises(
        hfpipe.StageError, match=r"report\.json: cannot be read \(its content is not what was"
    ):
        hfpipe.open(runs / "small")


@pytest.mark.slow
def test_stages_of_an_earlier_version_have_no_digests_and_are_read_as_before(
    finished: Finished, tmp_path: Path
) -> None:
    runs = copied(finished, tmp_path)
    for report in runs.glob("small/*/report.json"):
        found = json.loads(report.read_text())
        del found["seal"], found["files"]
        report.write_text(json.dumps(found, indent=1))
    found = hfpipe.run(hfpipe.load(finished.path, ["score.resamples=200"]), runs, say=lambda _: None)
    assert found.reports["score"].files
    summaries = [each.summary for each in hfpipe.verify(finished.path, runs)]
    assert summaries == ["written by an earlier version, without digests"] * 4


def interrupt(finished: Finished, runs: Path, at: int, ask: Callable[[], None] = lambda: None) -> Interrupted:
    """Run as far as a step of the training, where this process gets a signal; return how that ended."""

    @contextmanager
    def progress(title: str, _: int | None) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(more: int, _: str = "") -> None:
            nonlocal done
            done += more
            if title == "topics" and more and done == at:
                ask()
                os.kill(os.getpid(), signal.SIGTERM)

        yield advance

    with pytest.raises(Interrupted) as caught:
        hfpipe.run(hfpipe.load(finished.path), runs, say=lambda _: None, progress=progress)
    return caught.value


def begun(finished: Finished, folder: Path) -> Path:
    """Return runs in which the data and the tokenizer are finished."""
    for stage in ("wiki", "words"):
        made = finished.run.folders[stage]
        shutil.copytree(made, folder / "runs" / "small" / made.name)
    return folder / "runs"


def assert_same(resumed: Run, straight: Run) -> None:
    mine, theirs = (run.reports["topics"].model_dump() for run in (resumed, straight))
    assert (resumed.folder("topics") / "model.safetensors").read_bytes() == (
        straight.folder("topics") / "model.safetensors"
    ).read_bytes()
    assert small.history(mine) == small.history(theirs)
    assert small.train_loss(mine) == small.train_loss(theirs)
    assert [score.value for score in resumed.reports["score"].scores] == [
        score.value for score in straight.reports["score"].scores
    ]
    one, two = (pd.read_parquet(run.folder("score") / "predictions.parquet") for run in (resumed, straight))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.slow
def test_damaged_checkpoints_and_encoded_data_are_passed_over_and_the_result_is_the_same(
    finished: Finished, tmp_path: Path
) -> None:
    runs = begun(finished, tmp_path)
    assert str(interrupt(finished, runs, 16)) == (
        "stage topics: stopped by SIGTERM after step 17 of 20, with checkpoint-17 saved; "
        "run the same command again to resume"
    )
    (work,) = runs.glob("small/topics-*/.work")
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", "config.json"):
        path = work / "checkpoint-17" / name
        whole = path.read_bytes()
        for damaged in (bytes(len(whole)), whole[:-1], b""):
            path.write_bytes(damaged)
            assert find_newest_checkpoint(work)[0] == work / "checkpoint-15"
        path.write_bytes(whole)
        assert find_newest_checkpoint(work) == (work / "checkpoint-17", [])
    flip(work / "checkpoint-17" / "optimizer.pt", np.random.default_rng(4))
    flip(work / "encoded" / "train-00000.arrow", np.random.default_rng(5))
    flip(work / "encoded" / "validation.json", np.random.default_rng(6))
    assert len(damage(runs)) == 3
    said: list[str] = []
    resumed = hfpipe.run(hfpipe.load(finished.path), runs, say=said.append)
    why = "optimizer.pt is damaged: its content is not what was written"
    assert f"topics: checkpoint-17: {why}; resumes from checkpoint-15" in said
    log = (resumed.folder("topics") / "stage.log").read_text()
    assert (
        "encoded/train-00000.arrow: is damaged: its content is not what was written; encoding it again" in log
    )
    assert re.search(r"encoded/validation\.json: cannot be read \(.*\); encoding it again", log)
    assert_same(resumed, finished.run)
    assert damage(runs) == []


@pytest.fixture
def shared(finished: Finished, tmp_path: Path) -> tuple[Path, Path]:
    """Return the recipe and the runs of a stage with two seeds that was stopped at its first training."""
    made = recipe()
    made["stages"]["topics"]["seeds"] = [1, 2]
    del made["stages"]["score"]
    path, runs = small.write(tmp_path, made), begun(finished, tmp_path)

    @contextmanager
    def progress(title: str, _: int | None) -> Iterator[Callable[[int], None]]:
        if title == "topics@1":
            os.kill(os.getpid(), signal.SIGTERM)
        yield lambda _, note="": None

    with pytest.raises(Interrupted):
        hfpipe.run(hfpipe.load(path), runs, say=lambda _: None, progress=progress)
    return path, runs


@pytest.mark.slow
def test_what_a_disk_changes_in_data_that_trainings_share_is_found_and_its_file_named(
    shared: tuple[Path, Path],
) -> None:
    path, runs = shared
    [folder] = (runs / "small" / ".shared").iterdir()
    names = ["train-00000.arrow", "train.json", "validation-00000.arrow", "validation.json"]
    assert sorted(file.name for file in folder.iterdir()) == names
    whole = hfpipe.verify(runs / "small")[-1]
    assert (whole.folder, whole.damage) == (folder, ())
    assert re.fullmatch(r"encoded data that trainings share, whole, 4 files, .*", whole.summary)
    [training] = runs.glob("small/topics@1-*")
    random = np.random.default_rng(8)
    for target in (path, runs / "small", training):
        for file in map(folder.joinpath, names):
            kept = file.read_bytes()
            flip(file, random)
            [line] = hfpipe.verify(target, runs)[-1].damage
            assert line.startswith(f"{file}: ")
            assert line.endswith("; the run encodes it again")
            file.unlink()
            missing = hfpipe.verify(target, runs)[-1].damage
            assert missing == (
                () if file.suffix == ".json" else (f"{file}: is missing; the run encodes it again",)
            )
            file.write_bytes(kept)
    assert hfpipe.verify(runs / "small")[-1].damage == ()


def test_each_flipped_bit_of_the_marks_of_encoded_data_is_found(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "train.arrow", 4)
    batches = [Batch({"input_ids": [[1, 2, 3]], "row": [row]}, 1) for row in range(3)]
    shards.write(iter(batches), 0, State())
    assert list(shards.find_damage()) == []
    for file in sorted(tmp_path.glob("*.json")):
        kept = file.read_bytes()
        for bit in range(8 * len(kept)):
            content = bytearray(kept)
            content[bit // 8] ^= 1 << bit % 8
            file.write_bytes(content)
            assert any(line.startswith(f"{file}: ") for line in shards.find_damage()), (file.name, bit)
        file.write_bytes(kept)
    (tmp_path / "train-00001.arrow").unlink()
    assert list(shards.find_damage()) == [f"{tmp_path / 'train-00001.arrow'}: is missing"]


@pytest.mark.slow
def test_what_a_kill_between_report_and_clean_up_leaves_is_removed_by_the_next_run(
    finished: Finished, tmp_path: Path
) -> None:
    runs = copied(finished, tmp_path)
    (folder,) = runs.glob("small/topics-*")
    (folder / ".work" / "checkpoint-20").mkdir(parents=True)
    (folder / ".work" / "checkpoint-20" / "model.safetensors").write_bytes(b"weights")
    hfpipe.run(hfpipe.load(finished.path), runs, say=lambda _: None)
    assert not (folder / ".work").exists()
    assert damage(runs) == []
