"""Starts a run of two processes, and waits until user code in both of them has written its process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@contextmanager
def run_in_two(
    folder: Path, marker: str, arguments: tuple[str, ...], launcher: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run `folder / "small.yaml"`; yield the command, and the ids of process 0 and 1.

    The ids are read from the files `MARKER-0` and `MARKER-1` in the folder. The command has its own session,
    and is killed at the end of the block.
    """
    files = [folder / f"{marker}-{rank}" for rank in (0, 1)]
    for file in files:
        file.unlink(missing_ok=True)
    command = [sys.executable, "-m", *launcher, "hfpipe", "run", "small.yaml", "--runs", "runs", *arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"CI": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        signal.signal(signal.SIGINT, before)
        try:
            deadline = time.monotonic() + 120
            while not all(file.exists() and file.read_text() for file in files):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            first, second = (int(file.read_text()) for file in files)
            yield process, first, second
        finally:
            process.kill()
