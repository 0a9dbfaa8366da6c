"""Starts `hfpipe` and small programs in processes of their own, waits for what they do, and ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

LIMIT = 600
"""Seconds after which something hangs, however slow and loaded the machine is."""
READY = "ready"
"""What a program prints before it waits for a line."""


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def wait_until(
    holds: Callable[[], Any], process: subprocess.Popen[Any] | None = None, pause: float = 0.05
) -> None:
    """Wait for something that other processes do. `process` must not end before it has come."""
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert process is None or process.poll() is None, "the process ended before"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(pause)


def wait_for_end(*pids: int) -> None:
    """Wait until processes are gone, which is a moment after their output is closed."""
    wait_until(lambda: not any(map(is_running, pids)))


def read_pids(files: Sequence[Path], process: subprocess.Popen[Any] | None = None) -> list[int]:
    """Wait until each file holds the id of a process, and return the ids."""
    wait_until(lambda: all(file.exists() and file.read_text() for file in files), process)
    return [int(file.read_text()) for file in files]


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process's output."""
    assert process.stdout is not None
    return process.stdout.readline()


def send_line(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Let programs go on that wait for a line."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def hfpipe_messages(stderr: str) -> list[str]:
    """Return the messages that are hfpipe's; a launcher adds a trace."""
    return [line for line in stderr.splitlines() if line.startswith("hfpipe: ")]


@contextmanager
def start_programs(
    code: str, environs: Sequence[Mapping[str, Any]], *arguments: str | Path
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a program of Python once with each environment; all are ready, and are killed at the end."""
    with ExitStack() as stack:
        started = []
        for own in environs:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)],
                env=os.environ | {name: str(value) for name, value in own.items()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in started:
            assert read_line(process) == f"{READY}\n"
        yield started


@contextmanager
def start_hfpipe(
    *arguments: str | Path, cwd: Path | None = None, launcher: Sequence[str] = (), **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start the command line; it is killed at the end of the block. `options` are those of Popen.

    Ctrl-C interrupts it, which a background job of a shell ignores, and so what such a job starts.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", *launcher, "hfpipe", *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"CI": "true"},
            text=True,
            **options,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def run_in_two(
    folder: Path, marker: str, arguments: tuple[str, ...], launcher: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run `folder / "small.yaml"`; yield the command, and the ids of process 0 and 1.

    User code writes the ids into the files `MARKER-0` and `MARKER-1` in the folder. The command has its own
    session.
    """
    files = [folder / f"{marker}-{rank}" for rank in (0, 1)]
    for file in files:
        file.unlink(missing_ok=True)
    with start_hfpipe(
        *("run", "small.yaml", "--runs", "runs", *arguments),
        cwd=folder,
        launcher=launcher,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        first, second = read_pids(files, process)
        yield process, first, second
