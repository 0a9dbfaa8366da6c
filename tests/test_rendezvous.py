"""A process that dies before it has reached the others does not leave them waiting, and is named."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import LIMIT, read_line, send_line, start_programs

from hfpipe.errors import StageError
from hfpipe.interruption import StopRequest
from hfpipe.runner import Launch
from hfpipe.runner.launch import start

WORKER = """
import ctypes, os, sys, time
from pathlib import Path
from hfpipe.interruption import Interrupted
from hfpipe.runner.signals import catch_signals
from hfpipe.runner.supervision import join_launcher

def wait_outside_of_python():
    system, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    system.pthread_mutex_lock(lock)
    system.pthread_mutex_lock(lock)  # which it holds itself

print("ready", flush=True)
sys.stdin.readline()
try:
    with catch_signals(announces=False) as stop, join_launcher(Path(sys.argv[1]), stop) as member:
        while os.environ["RANK"] == "0" and not member.token:  # until it has reached its own coordinator
            time.sleep(0.01)
        print("joined", flush=True)
        WAIT
except Interrupted as error:
    sys.exit(f"hfpipe: {error}")
"""
"""A process of a launcher, which waits for the others as a stage does."""
FIX = "their output may say why; all need the same --runs, on a file system that all machines see"


@contextmanager
def processes(
    root: Path, ranks: list[int], world: int, *, rendezvous: int, wait: str = "time.sleep(600)"
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start some of the processes of a run, on one machine and without a launcher."""
    numbers = [
        {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "HFPIPE_RENDEZVOUS": rendezvous}
        for rank in ranks
    ]
    with start_programs(WORKER.replace("WAIT", wait), numbers, root) as started:
        send_line(started)
        yield started


def stderr_of(started: list[subprocess.Popen[str]]) -> list[str]:
    """Return the lines that processes have printed, which all end with an error."""
    lines = []
    for process in started:
        lines += process.communicate(timeout=LIMIT)[1].splitlines()
        assert process.returncode not in (0, -signal.SIGKILL)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "world", "missing"),
    [
        ([1, 2], 5, "processes 0, 3 and 4"),
        ([0, 2], 4, "processes 1 and 3"),
    ],
)
def test_processes_that_do_not_come_are_all_named_once_the_time_is_over(
    tmp_path: Path, ranks: list[int], world: int, missing: str
) -> None:
    with processes(tmp_path, ranks, world, rendezvous=4) as started:
        lines = stderr_of(started)
    assert lines == [f"hfpipe: {missing} have not connected within 4 s (HFPIPE_RENDEZVOUS); {FIX}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "wait", "line"),
    [
        (
            0,
            "wait_outside_of_python()",  # as torch does until all are there
            f"process 1 has not connected before process 0 was stopped by SIGTERM; {FIX}",
        ),
        (
            0,
            "time.sleep(600)",
            "stopped by SIGTERM; run the same command again to resume; process 1 had not connected",
        ),
        (
            1,
            "time.sleep(600)",
            "stopped by SIGTERM; run the same command again to resume; process 0 had not connected",
        ),
    ],
)
def test_a_process_that_a_launcher_stops_says_which_others_had_not_come(
    tmp_path: Path, rank: int, wait: str, line: str
) -> None:
    with processes(tmp_path, [rank], 2, rendezvous=600, wait=wait) as [process]:
        assert read_line(process) == "joined\n"
        time.sleep(1.0)  # until it waits outside of Python
        process.send_signal(signal.SIGTERM)
        assert stderr_of([process]) == [f"hfpipe: {line}"]


@pytest.mark.slow
def test_a_process_that_ends_before_it_has_connected_is_named_in_place_of_the_trace_of_the_launcher(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "no-stage-0123456789ab"  # so that the processes end as soon as they begin
    with pytest.raises(StageError) as caught:
        start(Launch(processes=2), folder, StopRequest())
    assert re.match(
        r"process [01], which had not connected yet, ended with code 1; its output may say why; the log is ",
        str(caught.value),
    )
    printed = capfd.readouterr().err
    assert "stage.json: cannot be read" in printed
    assert "Traceback" not in printed
