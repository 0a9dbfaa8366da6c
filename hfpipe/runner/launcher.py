"""Runs `accelerate launch` until it and the processes that it started have ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from typing import IO

from hfpipe.interruption import RESUME, StopRequest
from hfpipe.runner.jobs.output import pass_lines
from hfpipe.runner.supervision import Started
from hfpipe.runner.supervision.identity import describe_signal

POLL = 0.2
"""Seconds between checks of the launcher."""
ENDING = 10.0
"""Seconds that processes have to end after they were requested to."""
_TRACE = b"torch/distributed/elastic/multiprocessing/api.py"
"""Part of the first line that the launcher prints once a process has ended."""
_FIRST_TO_END = re.compile(r"Root Cause.*?\brank *: (\d+) .*?\bexitcode *: (-?\d+) ", re.DOTALL)


def run_launcher(
    command: list[str], environ: dict[str, str], started: Started, stop: StopRequest, name: str = ""
) -> int:
    """Run a launcher, and return its exit code once it and its processes have ended.

    The stderr of its processes is forwarded until one of them has failed or all were requested to stop. After
    that, the launcher prints its own traceback of fifty lines, without a cause. It is needed only if a
    process ended before it could connect, and then contains its rank and exit code. With a `name`, each line
    of stdout and stderr is prefixed with it.

    A signal that requests this process to stop is forwarded to the others, which save a checkpoint. The
    launcher itself gets no signals of the terminal, because it would end them after 30 seconds.
    """
    output = _Output(started, stop, name)
    out = subprocess.PIPE if name else None
    with subprocess.Popen(
        command, env=environ, stdout=out, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        passing = [
            threading.Thread(target=read, args=(stream,), daemon=True)
            for stream, read in ((process.stdout, output.pass_out), (process.stderr, output.pass_errors))
            if stream is not None
        ]
        for thread in passing:
            thread.start()
        try:
            with stop.defer():
                _wait(process, started, stop)
        except BaseException:  # the processes end whatever ends the launcher
            _fail_launch(started, "interrupted")
            raise
        if process.returncode < 0 and not started.failed.is_set():
            ended = signal.Signals(-process.returncode).name
            _fail_launch(started, f"the launcher (pid {process.pid}) was ended by {ended}; {RESUME}")
        for thread in passing:
            thread.join(ENDING)  # until all processes have closed the other end
    if process.returncode and output.passes:
        started.cause = _describe_first_to_end(output.trace.decode(errors="replace"))
        if not started.cause:
            os.write(2, output.trace)
    return process.returncode


class _Output:
    """Forwards the output of processes, up to the traceback of their launcher, which it stores."""

    def __init__(self, started: Started, stop: StopRequest, name: str) -> None:
        self._started, self._stop, self._name = started, stop, name
        self.trace = bytearray()

    @property
    def passes(self) -> bool:
        """Whether no process has failed or was requested to stop."""
        return not self._started.failed.is_set() and self._stop.number is None

    def pass_out(self, stdout: IO[bytes]) -> None:
        """Forward the lines of stdout until it ends."""
        pass_lines(stdout, 1, self._name, lambda _: self.passes)

    def pass_errors(self, stderr: IO[bytes]) -> None:
        """Forward stderr until it ends, line by line if there is a name as prefix."""
        if self._name:
            pass_lines(stderr, 2, self._name, lambda line: not self._take_trace(line + b"\n") and self.passes)
            return
        while chunk := os.read(stderr.fileno(), 1 << 16):
            rest = self._take_trace(chunk)
            if self.passes:
                with suppress(OSError):  # otherwise the processes would block once the reader is gone
                    os.write(2, chunk[: len(chunk) - rest])

    def _take_trace(self, chunk: bytes) -> int:
        """Store the part of the output that belongs to the traceback; return its number of bytes."""
        start = 0 if self.trace else chunk.find(_TRACE)
        start = chunk.rfind(b"\n", 0, start) + 1 if start >= 0 else len(chunk)
        self.trace.extend(chunk[start:])
        return len(chunk) - start


def _describe_first_to_end(trace: str) -> str:
    """Return which process ended first and how, from a launcher's traceback; empty if it is not stated."""
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
    """Wait for a launcher whose processes are ending, and terminate it if it does not end."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(ENDING)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDING)
    if process.poll() is None:
        process.kill()
