"""The identity of a process, its machine, and how it ended."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hfpipe.distributed import world
from hfpipe.errors import join_words
from hfpipe.interruption import RESUME

_LOOKS = 10
_NAMED = 8
"""Maximum number of processes named in a message."""
_PAUSE = 0.02
"""Seconds between checks of how a process ended."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process as it identifies itself to others of its run."""

    rank: int | None
    """Its rank among the processes of the run; None for the `hfpipe run` that started them."""
    pid: int
    host: str
    machine: str
    """Equal for processes in the same PID namespace."""
    parent: int
    """PID of its parent; processes of one launcher print to one terminal."""

    @classmethod
    def identify_self(cls, rank: int | None) -> ProcessIdentity:
        """Return the identity of this process."""
        machine = ""
        with suppress(OSError):
            booted = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
            machine = f"{booted}/{Path('/proc/self/ns/pid').stat().st_ino}"
        return cls(rank, os.getpid(), socket.gethostname(), machine, os.getppid())

    @classmethod
    def read(cls, message: dict[str, Any]) -> ProcessIdentity:
        """Return the identity that another process sent."""
        return cls(**{name: message[name] for name in cls.__dataclass_fields__})

    def as_json(self) -> dict[str, Any]:
        """Return the identity as JSON, for `read`."""
        return asdict(self)

    @property
    def terminal(self) -> tuple[str, str, int]:
        """Equal for processes that print to one terminal."""
        return self.host, self.machine, self.parent

    def __str__(self) -> str:
        return "hfpipe run" if self.rank is None else f"process {self.rank}"


def name_processes(ranks: Iterable[int]) -> str:
    """Return `process 1`, `processes 1, 2 and 5`, or the first ones and the number of others."""
    names = [str(rank) for rank in sorted(ranks)]
    if len(names) == 1:
        return f"process {names[0]}"
    shown = names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
    return f"processes {join_words(shown)}"


def describe_missing(ranks: Iterable[int], when: str) -> str:
    """Return the message about processes that have not connected, with advice."""
    missing = list(ranks)
    names = name_processes(missing)
    cause = f"{names} has not connected {when}" if len(missing) == 1 else f"{names} have not connected {when}"
    return (
        f"{cause}; their output may say why; all need the same --runs, on a file system that all machines see"
    )


def describe_rendezvous(seconds: float) -> str:
    """Return the time within which processes had to connect, and the variable that sets it."""
    return f"within {seconds:.0f} s ({world.RENDEZVOUS})"


def describe_end(lost: ProcessIdentity, seen_by: ProcessIdentity, end: str, progress: str = "") -> str:
    """Return how a process ended whose connection closed, as far as another process can tell."""
    name = f"{lost} (pid {lost.pid} on {lost.host})" + (f" at {progress}" if progress else "")
    code = (
        _read_exit_code(lost.pid)
        if end == "closed" and lost.machine and lost.machine == seen_by.machine
        else None
    )
    if end != "closed":
        cause = f"{name} no longer answers ({end}): its machine or the network is down"
    elif code is None:
        cause = f"{name} ended without a message; the output of its machine may say why"
    elif number := code & 0x7F:
        cause = f"{name} {describe_signal(number)}"
    else:
        cause = f"{name} ended with code {code >> 8} and without a message"
    return f"{cause}; {RESUME}"


def describe_signal(number: int) -> str:
    """Return the phrase about a process that a signal ended."""
    memory = ", perhaps because memory ran out" if number == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(number).name}{memory}"


def _read_exit_code(pid: int) -> int | None:
    """Return the exit status of a process as in wait(2), None if it is unknown.

    Linux shows it as the last field of `/proc/PID/stat` from the time a process begins to exit until its
    parent has waited for it.
    """
    for _ in range(_LOOKS):
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return None
        if state in "ZX" or int(fields[-1]):
            return int(fields[-1])
        time.sleep(_PAUSE)
    return None
