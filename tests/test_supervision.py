"""Processes of one run end together, however one of them ends, and say once why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
import small
from commands import (
    LIMIT,
    hfpipe_messages,
    is_running,
    run_in_two,
    send_line,
    start_programs,
    wait_for_end,
    wait_until,
)

import hfpipe
from hfpipe.errors import StageError
from hfpipe.runner.supervision import Started, coordinate, join_run
from hfpipe.store.store import Store

WORKER = """
import os, sys, time
from hfpipe.errors import StageError
from hfpipe.runner.supervision import join_run

def work():
    first = os.environ["RANK"] == "0"
    print("ready", flush=True)
    sys.stdin.readline()
    WORK

with join_run() as member:
    member.set_stage("topics", "")
    while not member.token:  # until it is connected
        time.sleep(0.01)
    work()
"""
"""A process of a run that does something once it is sent a line."""


def workers(started: Started, count: int, work: str) -> AbstractContextManager[list[subprocess.Popen[str]]]:
    """Start the processes of a run, which wait for a line."""
    environs = [started.environ | {"RANK": rank, "WORLD_SIZE": count} for rank in range(count)]
    return start_programs(WORKER.replace("WORK", work), environs)


ENDS = {
    "time.sleep(600)": "process 1 (pid PID on HOST) was ended by SIGKILL, perhaps because memory ran out; "
    "run the same command again to resume",
    "time.sleep(600) if first else os.abort()": "process 1 (pid PID on HOST) was ended by SIGABRT; "
    "run the same command again to resume",
    "time.sleep(600) if first else os._exit(3)": "process 1 (pid PID on HOST) ended with code 3 and without "
    "a message; run the same command again to resume",
    "time.sleep(600) if first else sys.exit(4)": "user code ended process 1 with code 4",
    "time.sleep(600) if first else 1 / 0": "process 1: ZeroDivisionError: division by zero",
}


@pytest.mark.slow
@pytest.mark.parametrize("work", ENDS)
def test_a_process_that_ends_is_named_with_its_cause_and_ends_the_others(work: str) -> None:
    with coordinate(2) as started, workers(started, 2, work) as (first, second):
        send_line([first, second])
        if work == "time.sleep(600)":
            second.kill()
        assert started.failed.wait(LIMIT)
        assert first.wait(LIMIT) == 1
        assert second.wait(LIMIT) != 0
        assert first.stderr is not None
        assert first.stderr.read() == ""  # `hfpipe run` prints it
    cause = re.sub(r"pid \d+ on \S+\)", "pid PID on HOST)", started.cause).removeprefix("stage topics: ")
    assert cause == ENDS[work]


@pytest.mark.slow
def test_of_several_failures_the_first_is_the_one_that_is_heard() -> None:
    work = "raise StageError(f'process {int(not first)} failed')"
    with coordinate(2) as started, workers(started, 2, work) as (first, second):
        send_line([second])
        assert started.failed.wait(LIMIT)
        with suppress(BrokenPipeError):  # it is told to end meanwhile
            send_line([first])
        assert [process.wait(LIMIT) for process in (first, second)] == [1, 1]
    assert started.cause == "process 1 failed"


@pytest.mark.slow
def test_processes_that_end_well_end_nobody() -> None:
    work = "time.sleep(0 if first else 1.5)"
    with coordinate(2) as started, workers(started, 2, work) as processes:
        send_line(processes)
        assert [process.wait(LIMIT) for process in processes] == [0, 0]
        assert not started.failed.is_set()


STANDINGS = """hfpipe: no process has made progress for N s:
    process 0: topics, in work (<string>:10)
    process 1: topics, does not answer
    process 2: has not connected
"""


@pytest.mark.slow
def test_where_each_process_stands_is_printed_when_none_gets_further(
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = ""

    def is_said(expected: str) -> bool:
        nonlocal said
        said += re.sub(r" for \d+ s:", " for N s:", re.sub(r" on \S+: ", ": ", capfd.readouterr().err))
        return expected in said

    with coordinate(3, patience=1.0) as started, workers(started, 2, "time.sleep(600)") as (first, second):
        send_line([first])
        wait_until(lambda: is_said("process 1: topics, in work"))  # a process that stops earlier has no stage
        second.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_said(STANDINGS))  # not at once where the first one takes long to answer


LEADER = """
import os, subprocess, sys, time
from pathlib import Path
from hfpipe.runner.supervision import coordinate

with coordinate(1) as started:
    environ = os.environ | started.environ | {{"RANK": "0", "WORLD_SIZE": "1"}}
    process = subprocess.Popen([sys.executable, "-c", {worker!r}], env=environ, stdin=subprocess.PIPE)
    print(process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_process_ends_with_the_run_that_started_it_even_if_nobody_reaps_that(tmp_path: Path) -> None:
    store, folder = Store(tmp_path), tmp_path / "topics-0123456789ab"
    share = f"""
    from pathlib import Path
    from hfpipe.store.store import Store
    with Store(Path({str(tmp_path)!r})).share(Path({str(folder)!r}), 0):
        print("holds", flush=True)
        time.sleep(600)"""
    worker = WORKER.replace("WORK", share).replace("sys.stdin.readline()", "")
    with subprocess.Popen(
        [sys.executable, "-c", LEADER.format(worker=worker)], stdout=subprocess.PIPE, text=True
    ) as leader:
        assert leader.stdout is not None
        said = [leader.stdout.readline().strip() for _ in range(3)]
        (pid,) = (int(line) for line in said if line.isdigit())
        assert "holds" in said
        os.kill(pid, signal.SIGSTOP)
        leader.kill()  # and left a zombie for now
        waited: list[str] = []

        def waiting(owner: str) -> None:
            waited.append(owner)
            assert is_running(pid)
            os.kill(pid, signal.SIGCONT)

        with store.lock(folder, waiting):
            wait_for_end(pid)
    assert waited == ["process 0 of a run that has ended"]


def test_a_process_that_no_run_started_is_refused() -> None:
    with (
        pytest.raises(StageError, match=r"is started by `hfpipe run RECIPE --processes N`; run that"),
        join_run(),
    ):
        pytest.fail("it was let in")


STOPS = """
import os, time
from pathlib import Path
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEncoder

class StopsEncoder(TextClassificationEncoder):
    def collate(self, examples, tokenizer, seed, *, train):
        here = Path(__file__).parent
        rank = os.environ.get("RANK", "0")
        kept = here.glob("runs/small/topics-*/.work/checkpoint-4/complete.json")
        if train and (here / "stop").exists() and list(kept):
            (here / f"stopped-{rank}").write_text(str(os.getpid()))
            time.sleep(600 * int(rank))
        return super().collate(examples, tokenizer, seed, train=train)

class Stops(TextClassification):
    kind: str = "stops.py:Stops"

    def runtime(self):
        return replace(super().runtime(), encoder=StopsEncoder(self))
"""
"""A task of which process 1 stops in a training, once there is a checkpoint: process 0 waits for it."""


def stopping(folder: Path) -> Path:
    """Write a recipe of that task into a folder, and run what its training reads."""
    (folder / "stops.py").write_text(STOPS, encoding="utf-8")
    made = small.recipe("bert", max_steps=8, save_steps=4)
    del made["stages"]["pretrain"], made["stages"]["score"]
    task = {"kind": "stops.py:Stops", "length": 32}
    made["stages"]["topics"] |= {"task": task, "tokenizer": "stage:words", "model": small.MODELS["bert"]}
    path = small.write(folder, made)
    hfpipe.run(hfpipe.load(path), folder / "runs", until="words", say=lambda _: None)
    return path


@contextmanager
def stopped(
    folder: Path, arguments: tuple[str, ...], launcher: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run the recipe in two processes until they stop; yields what was started, and their numbers."""
    (folder / "stop").touch()
    with run_in_two(folder, "stopped", arguments, launcher) as found:
        time.sleep(1.5)  # until process 0 waits in a collective operation
        (folder / "stop").unlink()
        yield found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


PLACE = r"hfpipe: small\.yaml:1:\d+: stage topics: "


@pytest.mark.slow
def test_whichever_process_of_a_run_is_killed_the_others_end_and_the_next_run_resumes(tmp_path: Path) -> None:
    path = stopping(tmp_path)
    with stopped(tmp_path, ("--processes", "2")) as (run, first, second):
        began = time.monotonic()
        os.kill(second, signal.SIGKILL)
        stderr = run.communicate(timeout=LIMIT)[1]
        print("a process killed:", time.monotonic() - began)
        assert run.returncode == 1
        wait_for_end(first)
    (line,) = stderr.splitlines()
    assert re.fullmatch(
        PLACE + rf"process 1 \(pid {second} on \S+\) at topics, \d was ended by SIGKILL, perhaps because "
        r"memory ran out; run the same command again to resume; the log is \S+stage\.log",
        line,
    )
    with stopped(tmp_path, ("--processes", "2")) as (run, first, second):
        launcher, began = parent_of(first), time.monotonic()
        os.kill(launcher, signal.SIGKILL)
        stderr = run.communicate(timeout=LIMIT)[1]
        print("the launcher killed:", time.monotonic() - began)
        assert run.returncode == 1
        wait_for_end(first, second)
    (line,) = stderr.splitlines()
    assert re.match(PLACE + rf"the launcher \(pid {launcher}\) was ended by SIGKILL; run the same", line)
    with stopped(tmp_path, ("--processes", "2")) as (run, first, second):
        launcher, began = parent_of(first), time.monotonic()
        run.kill()  # and not reaped until the end of the block
        hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)
        wait_for_end(launcher, first, second)
    (folder,) = tmp_path.glob("runs/small/topics-*")
    assert "resuming from checkpoint-4" in (folder / "stage.log").read_text()


@pytest.mark.slow
def test_under_a_launcher_the_others_end_too(tmp_path: Path) -> None:
    stopping(tmp_path)
    launcher = (
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
    )
    with stopped(tmp_path, (), launcher) as (run, first, second):
        began = time.monotonic()
        os.kill(second, signal.SIGKILL)
        stderr = run.communicate(timeout=LIMIT)[1]
        print("a process killed under a launcher:", time.monotonic() - began)
        wait_for_end(first)
    (line,) = hfpipe_messages(stderr)
    assert re.match(PLACE + rf"process 1 \(pid {second} on \S+\) at topics, \d was ended by SIGKILL", line)
    with stopped(tmp_path, (), launcher) as (run, first, second):
        began = time.monotonic()
        run.kill()
        stderr = run.communicate(timeout=LIMIT)[1]
        print("only the launcher killed:", time.monotonic() - began)
        wait_for_end(first, second)
    (line,) = hfpipe_messages(stderr)
    assert re.match(
        PLACE + r"the launcher that started the processes was ended; run the same command again", line
    )
