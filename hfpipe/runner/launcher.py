"""Runs `accelerate launch` until it has ended together with the processes that it started."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from typing import IO

from hfpipe.interruption import RESUME, StopRequest
from hfpipe.runner.supervision import Started
from hfpipe.runner.supervision.identity import describe_signal

POLL = 0.2
"""Seconds between looks at the launcher."""
ENDING = 10.0
"""Seconds that processes have to end, after the request to do so."""
_TRACE = b"torch/distributed/elastic/multiprocessing/api.py"
"""In the first line of what the launcher writes once a process has ended."""
_FIRST_TO_END = re.compile(r"Root Cause.*?\brank *: (\d+) .*?\bexitcode *: (-?\d+) ", re.DOTALL)


def run_launcher(command: list[str], environ: dict[str, str], started: Started, stop: StopRequest) -> int:
    """Run a launcher, and return its exit code once it and its processes have ended.

    Its processes' stderr is passed on until one of them has failed, or all are asked to stop. What follows is
    the launcher's own trace, fifty lines that name no cause. They are needed only where a process has ended
    before it could connect, and then hold its number and how it ended.

    A signal that asks this process to stop is passed on to the others, which save a checkpoint. The launcher
    itself gets none of a terminal, as it would end them after 30 seconds.
    """

    trace = bytearray()

    def pass_on(stderr: IO[bytes]) -> None:
        while chunk := os.read(stderr.fileno(), 1 << 16):
            start = 0 if trace else chunk.find(_TRACE)
            start = chunk.rfind(b"\n", 0, start) + 1 if start >= 0 else len(chunk)
            trace.extend(chunk[start:])
            if not started.failed.is_set() and stop.number is None:
                os.write(2, chunk[:start])

    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stderr is not None
        passing = threading.Thread(target=pass_on, args=(process.stderr,), daemon=True)
        passing.start()
        try:
            with stop.deferred():
                _wait(process, started, stop)
        except BaseException:
            _fail_launch(started, "interrupted")
            raise
        if process.returncode < 0 and not started.failed.is_set():
            name = signal.Signals(-process.returncode).name
            _fail_launch(started, f"the launcher (pid {process.pid}) was ended by {name}; {RESUME}")
        passing.join(ENDING)  # until no process holds the other end
    if process.returncode and not started.failed.is_set() and stop.number is None:
        started.cause = _describe_first_to_end(trace.decode(errors="replace"))
        if not started.cause:
            os.write(2, trace)
    return process.returncode


def _describe_first_to_end(trace: str) -> str:
    """Return which process ended first and how, from a launcher's trace; empty where it does not say."""
    found = _FIRST_TO_END.search(trace)
    if found is None:
        return ""
    code = int(found[2])
    how = describe_signal(-code) if code < 0 else f"ended with code {code}"
    return f"process {found[1]}, which had not connected yet, {how}; its output may say why"


def _wait(process: subprocess.Popen[bytes], started: Started, stop: StopRequest) -> None:
    passed_on = False
    while process.poll() is None:
        if stop.number is not None and not passed_on:
            started.member.pass_on(stop.number)
            passed_on = True
        if started.failed.wait(POLL):
            _end_process(process)


def _fail_launch(started: Started, cause: str) -> None:
    started.fail(cause)
    started.member.fail(cause, prints=True)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """Wait for a launcher whose processes end, and end it if it does not."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
    if process.poll() is None:
        process.kill()
