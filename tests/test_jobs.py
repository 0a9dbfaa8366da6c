"""Stages that do not need each other run at once: same results, one line each, and they end together."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
from commands import LIMIT, read_pids, start_hfpipe, wait_for_end
from processes import kill_once

import hfpipe
from hfpipe import api
from hfpipe.cli.main import main
from hfpipe.contract import RunContext
from hfpipe.errors import DataError, RecipeError, StageError
from hfpipe.runner import Launch
from hfpipe.runner.jobs.devices import divide_devices, list_devices
from hfpipe.runner.jobs.output import pass_lines
from hfpipe.runner.jobs.queue import find_lone_stages
from hfpipe.runner.launch import check_launch, check_processes
from hfpipe.stages import restore_stage
from hfpipe.stages.repeats.members import SHARED, hold_encoded


def test_jobs_divide_the_gpus_and_share_them_in_turn_where_there_are_fewer() -> None:
    def gpus(jobs: int, processes: int, devices: list[str]) -> list[str]:
        parts = divide_devices(jobs, processes, devices, 16, {})
        return [part["CUDA_VISIBLE_DEVICES"] for part in parts]

    assert gpus(2, 1, ["0", "1"]) == ["0", "1"]
    assert gpus(2, 2, ["4", "5", "6", "7"]) == ["4,5", "6,7"]
    assert gpus(3, 1, ["0", "1"]) == ["0", "1", "0"]
    assert gpus(2, 2, ["0"]) == ["0", "0"]  # oversubscribed: the same device is not named twice
    assert gpus(2, 1, list_devices({"CUDA_VISIBLE_DEVICES": "3, GPU-8932f937"}, 2)) == ["3", "GPU-8932f937"]
    assert list_devices({}, 2) == ["0", "1"]
    assert list_devices({"CUDA_VISIBLE_DEVICES": ""}, 0) == []


def test_jobs_divide_the_threads_unless_it_is_said_how_many_there_are() -> None:
    assert divide_devices(4, 1, [], 8, {}) == [{"OMP_NUM_THREADS": "2"}] * 4
    assert divide_devices(3, 1, [], 2, {}) == [{"OMP_NUM_THREADS": "1"}] * 3
    assert divide_devices(2, 1, [], 8, {"OMP_NUM_THREADS": "8"}) == [{}, {}]
    assert divide_devices(2, 2, [], 8, {}) == [{}, {}]  # the launcher says how many


def test_what_cannot_work_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="--jobs 0: must be at least 1"):
        check_launch(Launch(jobs=0))
    config = tmp_path / "two.yaml"
    config.write_text("distributed_type: MULTI_GPU\nnum_processes: 2\ngpu_ids: 0,1\n", encoding="utf-8")
    check_launch(Launch(config=config))
    with pytest.raises(RecipeError, match=r"two.yaml:3:1: it names GPUs, which --jobs 2 divides; delete gpu"):
        check_launch(Launch(config=config, jobs=2))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="--jobs is for plain `hfpipe run`, not under a launcher"):
        check_launch(Launch(jobs=2))


@pytest.mark.slow  # counts the devices, by torch
def test_more_jobs_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(RecipeError, match="--jobs 5000: 5000 jobs of 1 process, and this machine has"):
        check_processes(Launch(jobs=5000), {})
    with pytest.raises(RecipeError, match="--jobs 5000: 5000 jobs of 2 processes, and this machine has"):
        check_processes(Launch(processes=2, jobs=5000), {})
    check_processes(Launch(jobs=5000, oversubscribe=True), {})


def test_the_command_line_takes_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small.write(tmp_path, small.recipe())
    assert main(["run", str(path), "--runs", str(tmp_path / "runs"), "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "--jobs 0: must be at least 1\n"


def test_a_stage_that_nothing_can_run_next_to_is_not_a_job(tmp_path: Path) -> None:
    recipe = small.recipe()
    steps = hfpipe.plan(hfpipe.load(small.write(tmp_path, recipe)))
    assert find_lone_stages(steps) == set(recipe["stages"])
    recipe["stages"]["topics"]["seeds"] = [1, 2]
    recipe["stages"]["other"] = recipe["stages"]["topics"] | {"seeds": None}
    steps = hfpipe.plan(hfpipe.load(small.write(tmp_path, recipe)))
    assert find_lone_stages(steps) == {"wiki", "words", "pretrain"}


def passed_on(written: bytes, name: str = "a@1", passes: Callable[[bytes], bool] = lambda _: True) -> bytes:
    """Return what comes out of what a job has written."""
    (reader, writer), (result, to) = os.pipe(), os.pipe()
    os.write(writer, written)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        pass_lines(stream, to, name, passes)
    os.close(to)
    with os.fdopen(result, "rb") as stream:
        return stream.read()


def test_each_line_of_a_job_has_its_stage_in_front_once() -> None:
    assert passed_on(b"one\n\na@1: 5 of 9\r\ntwo") == b"a@1: one\na@1: 5 of 9\na@1: two\n"
    assert passed_on(b"10 %\r50 %\r100 %\n") == b"a@1: 100 %\n"  # a bar ends as one line
    assert passed_on("é\xa0ß\n".encode()) == "a@1: é\xa0ß\n".encode()
    assert passed_on(b"trace\n", passes=lambda _: False) == b""


def test_settings_of_an_evaluation_are_read_again_as_they_were(tmp_path: Path) -> None:
    recipe = small.recipe()
    recipe["stages"]["score"] |= {"cluster": False, "leakage": "fail", "labels": {"LABEL_0": "Arts"}}
    for bound in ({"min": 0.5}, {"beats": "tfidf"}, {"beats": "tfidf", "by": 0.1, "p": 0.01}):
        recipe["stages"]["score"]["require"] = {"accuracy": bound}
        stage = hfpipe.load(small.write(tmp_path, recipe)).stages["score"]
        assert restore_stage(stage.model_dump(mode="json"), tmp_path, tmp_path) == stage


@pytest.mark.parametrize("path", sorted((small.ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stage_is_read_again_from_its_settings_as_it_was(path: Path) -> None:
    try:
        stages = hfpipe.load(path).stages
    except RecipeError as error:
        if "HF_HUB_OFFLINE" not in str(error):
            raise
        pytest.skip("its model is on the Hub")
    for stage in stages.values():
        again = restore_stage(stage.model_dump(mode="json"), path.parent, path.parent)
        assert type(again) is type(stage)
        assert again.model_dump(mode="json") == stage.model_dump(mode="json")


def test_two_runs_do_not_write_the_encoded_data_of_one_stage_at_once(
    context: Callable[..., RunContext],
) -> None:
    ctx, entered = context("topics@1"), threading.Event()

    def enter() -> None:
        with hold_encoded(ctx, ctx.folder.parent / SHARED / "topics-0"):
            entered.set()

    other = threading.Thread(target=enter)
    with hold_encoded(ctx, ctx.folder.parent / SHARED / "topics-0"):
        other.start()
        assert not entered.wait(0.2)
    other.join(LIMIT)
    assert entered.is_set()


SOURCES = """
import os, sys, time
from pathlib import Path

HERE = Path(__file__).parent

def meet(own, other):
    (HERE / own).write_text(str(os.getpid()))
    deadline = time.monotonic() + 600
    while not (HERE / other).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)

def rows(name):
    return [{"text": f"{name} {number}", "label": str(number % 2)} for number in range(8)]

def first():
    meet("first", "second")
    print("made by hand")
    return rows("first")

def second():
    meet("second", "first")
    END
    return rows("second")
"""
"""Two sources that wait for each other, so that they end only if they are read at once."""


def two_datasets(folder: Path, end: str = "pass") -> Path:
    (folder / "sources.py").write_text(SOURCES.replace("END", end), encoding="utf-8")
    stages: dict[str, Any] = {
        name: {"kind": "dataset", "source": {"python": f"sources.py:{name}"}, "columns": {"text": "text"}}
        for name in ("first", "second")
    }
    stages["words"] = {"kind": "tokenizer", "data": "stage:second", "algorithm": "bpe", "vocab_size": 300}
    return small.write(folder, {"name": "two", "stages": stages})


def run_jobs(path: Path, jobs: int = 2) -> list[str]:
    """Run a recipe and return what it says."""
    said: list[str] = []
    api.run(
        hfpipe.load(path),
        path.parent / "runs",
        say=said.append,
        launch=Launch(jobs=jobs, oversubscribe=True),
    )
    return said


@pytest.mark.slow
def test_one_job_fails_and_the_other_goes_on_to_its_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_datasets(tmp_path, "if (HERE / 'closed').exists(): raise ValueError('no rows today')")
    (tmp_path / "closed").touch()
    with pytest.raises((DataError, StageError), match=r"small.yaml:1:\d+: stage second: .*no rows today"):
        run_jobs(path)
    assert capfd.readouterr().out == "first: made by hand\n"
    (tmp_path / "closed").unlink()
    said = [line.partition(" · ")[0] for line in run_jobs(path)]
    assert said[0] == "first: done"
    assert [line.partition(":")[0] for line in said] == ["first", "second", "words"]
    assert not any(line.endswith(": done") for line in said[1:])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_end_with_the_run_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    two_datasets(tmp_path, "time.sleep(600)")
    (tmp_path / "sources.py").write_text(
        (tmp_path / "sources.py").read_text().replace("    print(", "    time.sleep(600)\n    print("),
        encoding="utf-8",
    )
    arguments = ("run", "small.yaml", "--jobs", "2", "--oversubscribe")
    with start_hfpipe(*arguments, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        pids = read_pids([tmp_path / "first", tmp_path / "second"], process)
        process.send_signal(number)
        assert process.wait(LIMIT) == (-9 if number == signal.SIGKILL else 143)
        wait_for_end(*pids)
        assert process.stderr is not None
        said = process.stderr.read()
    if number == signal.SIGTERM:
        assert "stage first: stopped by SIGTERM; run the same command again to resume" in said
        assert "Traceback" not in said


SEEDED, FOLDED = "topics@trial=seeded", "topics@trial=folded"


def matrix_of_repeats(folder: Path) -> Path:
    """Return a recipe that trains with seeds, and with folds and another learning rate."""
    (folder / "held.py").write_text(small.HELD, encoding="utf-8")
    recipe = small.recipe("bert", save_steps=2)
    stages = recipe["stages"]
    stages["topics"]["task"] = {"kind": "held.py:Held", "length": 32}
    del stages["pretrain"], stages["score"]
    stages["words"]["vocab_size"] = 500
    stages["topics"] |= {"model": small.MODELS["bert"], "tokenizer": "stage:words"}
    folded = {"topics.folds": 2, "topics.training.learning_rate": 2e-3}
    recipe["matrix"] = {"trial": {"seeded": {"topics.seeds": [1, 2]}, "folded": folded}}
    return small.write(folder, recipe)


def outputs(run: hfpipe.Run) -> dict[str, Any]:
    """Return what the trainings of a run left, and how they are summed up."""
    folds = [f"{FOLDED}@fold1", f"{FOLDED}@fold2"]
    names = [f"{SEEDED}@1", f"{SEEDED}@2", *folds]
    found: dict[str, Any] = {name: (run.folder(name) / "model.safetensors").read_bytes() for name in names}
    for name in folds:
        found[f"{name} left out"] = (run.folder(name) / "held_out.json").read_text(encoding="utf-8")
    for name in (SEEDED, FOLDED):
        spread = run.reports[name].facts["spread"]
        found[name] = {metric: (each["values"], each["sd"]) for metric, each in spread.items()}
    return found | {"matrix": run.matrix("topics").to_json(double_precision=15)}


@pytest.mark.slow
def test_a_killed_run_of_jobs_gives_bit_for_bit_what_one_stage_after_the_other_gives(tmp_path: Path) -> None:
    path = matrix_of_repeats(tmp_path)
    alone = api.run(hfpipe.load(path), tmp_path / "alone", say=lambda _: None)
    runs = tmp_path / "runs" / "small"
    for stage in ("wiki", "words", f"{FOLDED}@fold2"):  # which are done already
        shutil.copytree(alone.folder(stage), runs / alone.folder(stage).name)

    def both_have_a_checkpoint() -> bool:
        return len({file.parts[-4] for file in runs.glob("*/.work/checkpoint-*/complete.json")}) >= 2

    with small.hold(tmp_path, runs, "topics*/stage.json"):
        kill_once(both_have_a_checkpoint, "run", path, "--runs", runs.parent, "--jobs", "2")
    said: list[str] = []
    jobs = api.run(hfpipe.load(path), tmp_path / "runs", say=said.append, launch=Launch(jobs=2))
    assert {line.partition(":")[0] for line in said} == set(alone.reports)
    assert outputs(jobs) == outputs(alone)
    assert not list((runs / ".shared").glob("*"))
