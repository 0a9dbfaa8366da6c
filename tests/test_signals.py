"""A signal saves a checkpoint after the next step and says how to continue; a second one stops at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import small
from commands import LIMIT, is_running, run_in_two, wait_for_end

import hfpipe
from hfpipe.interruption import Interrupted, StopRequest
from hfpipe.runner.signals import catch_signals
from hfpipe.training.checkpoints import find_newest_checkpoint


def test_a_signal_is_an_error_at_once_unless_what_runs_looks_for_it() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with catch_signals(announces=False) as stop:
        with stop.defer():
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.number == signal.SIGTERM
        with pytest.raises(Interrupted, match=r"^stopped by SIGTERM; run the same command again to resume$"):
            stop.check()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    try:
        with catch_signals(announces=False), pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is handler


def test_an_error_that_ends_a_run_is_reported_without_another() -> None:
    stop = StopRequest()
    with pytest.raises(ZeroDivisionError), stop.defer_after_error():
        raise ZeroDivisionError
    stop.ask(signal.SIGTERM)


def test_a_signal_that_a_shell_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with catch_signals(announces=False) as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.number is None
    finally:
        signal.signal(signal.SIGINT, before)


def announcement(name: str) -> str:
    """Return the line that the first signal of a name is answered with."""
    return f"hfpipe: {name}: stops after the next step, with a checkpoint; send it again to stop at once\n"


STUCK = """
import ctypes, os, sys, time
from hfpipe.runner.signals import catch_signals

with catch_signals(announces=True) as stop, stop.defer():
    system, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    print("ready", flush=True)
    system.pthread_mutex_lock(lock)
    system.pthread_mutex_lock(lock)  # which it holds itself: it waits for ever, outside of Python
"""


@pytest.mark.slow
def test_a_second_signal_ends_a_process_at_once_that_waits_outside_of_python() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert process.stderr.readline() == announcement("SIGTERM")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 143
        assert process.stderr.read() == (
            "hfpipe: SIGTERM: stopped at once; run the same command again to resume\n"
        )


def children() -> list[int]:
    """Return the processes that this one has started."""
    found = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(number) for number in found.split()]


def recipe(folder: Path, **training: int) -> Path:
    made = small.recipe("bert", max_steps=12, save_steps=4, logging_steps=5, **training)
    del made["stages"]["pretrain"], made["stages"]["score"]
    made["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    return small.write(folder, made)


@pytest.mark.slow
def test_workers_of_a_loader_outlive_a_signal_to_all_processes_until_the_step_is_saved(
    tmp_path: Path,
) -> None:
    path, runs = recipe(tmp_path, dataloader_num_workers=2), tmp_path / "runs"
    asked: list[int] = []

    @contextmanager
    def progress(title: str, _: int | None) -> Iterator[Callable[[int], None]]:
        steps = 0

        def advance(more: int, _: str = "") -> None:
            nonlocal steps
            steps += more
            if title == "topics" and steps == 5 and not asked:
                asked.extend(children())
                for number in (*asked, os.getpid()):
                    os.kill(number, signal.SIGTERM)

        yield advance

    with pytest.raises(
        Interrupted, match=r"after step 6 of 12, with checkpoint-6 saved; run the same command"
    ):
        hfpipe.run(hfpipe.load(path), runs, say=lambda _: None, progress=progress)
    assert len(asked) >= 2
    resumed = hfpipe.run(hfpipe.load(path), runs, say=lambda _: None)
    straight = hfpipe.run(hfpipe.load(path), tmp_path / "straight", say=lambda _: None)
    mine, theirs = (run.reports["topics"].model_dump() for run in (resumed, straight))
    assert small.history(mine) == small.history(theirs)
    assert small.train_loss(mine) == small.train_loss(theirs)


SLOW = """
import os, time
from pathlib import Path
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEncoder

class SlowEncoder(TextClassificationEncoder):
    def collate(self, examples, tokenizer, seed, *, train):
        here, rank = Path(__file__).parent, os.environ.get("RANK", "0")
        if train:
            (here / f"trains-{rank}").write_text(str(os.getpid()))
            time.sleep(600 if rank == "1" and (here / "stop").exists() else 0.3)
        return super().collate(examples, tokenizer, seed, train=train)

class Slow(TextClassification):
    kind: str = "slow.py:Slow"

    def runtime(self):
        return replace(super().runtime(), encoder=SlowEncoder(self))
"""
"""A task that takes its time, and of which process 1 stops: process 0 then waits for it."""


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step_and_a_second_signal_ends_them_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    path = recipe(tmp_path)
    path.write_text(path.read_text().replace('{"kind": "text-classification"', '{"kind": "slow.py:Slow"'))
    with run_in_two(tmp_path, "trains", ("--processes", "2")) as (run, *pids):
        run.send_signal(signal.SIGTERM)
        stderr = run.communicate(timeout=LIMIT)[1]
        assert not any(map(is_running, pids))
    assert run.returncode == 143
    announced, line = stderr.splitlines()
    assert f"{announced}\n" == announcement("SIGTERM")
    found = re.fullmatch(
        r"hfpipe: small\.yaml:1:\d+: stage topics: stopped by SIGTERM after step (\d+) of 12, "
        r"with checkpoint-(\d+) saved; run the same command again to resume",
        line,
    )
    assert found is not None, line
    assert found[1] == found[2]
    (work,) = tmp_path.glob("runs/small/topics-*/.work")
    assert find_newest_checkpoint(work) == (work / f"checkpoint-{found[1]}", [])
    (tmp_path / "stop").touch()
    with run_in_two(tmp_path, "trains", ("--processes", "2")) as (run, *pids):
        time.sleep(1.0)  # until process 0 waits for the other
        run.send_signal(signal.SIGINT)
        assert run.stderr is not None
        assert run.stderr.readline() == announcement("SIGINT")
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(1.0)
        run.send_signal(signal.SIGINT)
        assert run.wait(LIMIT) == 130
        wait_for_end(*pids)
    assert find_newest_checkpoint(work) == (work / f"checkpoint-{found[1]}", [])
