"""Which processes wait for process 0, in files next to its address: it is not there to tell them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hfpipe.runner.supervision.identity import ProcessIdentity

_RECENT = 30.0
"""Seconds since the last sign of a process that waits."""
_EACH = 1.0
"""Seconds between two signs."""


class Presence:
    """The file of one waiting process, which is renewed while it waits, and those of the others.

    A file that a killed process left behind is known by its age, by the clock of the file system.

    Args:
        address: The file to which the address of process 0 comes.
        me: This process.
        world: Number of processes of the run.
    """

    def __init__(self, address: Path, me: ProcessIdentity, world: int) -> None:
        self._address, self._me, self._world = address, me, world
        self._file = self._file_of(me.rank or 0)
        self._renewed: float | None = None

    def renew(self) -> None:
        """Show the others that this process waits; a folder that cannot be written is not an error."""
        now = time.monotonic()
        if self._renewed is not None and now - self._renewed < _EACH:
            return
        with suppress(OSError):
            if self._renewed is None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.write_text(json.dumps(self._me.as_json()), encoding="utf-8")
            os.utime(self._file)
        self._renewed = now

    def remove(self) -> None:
        """Remove the file of this process, which waits no longer."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """Return the numbers of the processes that do not wait; process 0, which does not come, is one."""
        there = {self._me.rank, *(other.rank for other in self._others())}
        return [rank for rank in range(self._world) if rank not in there]

    def is_first_here(self) -> bool:
        """Tell whether no process with a smaller number waits that prints to the same terminal."""
        mine = self._me.rank or 0
        return not any(
            other.terminal == self._me.terminal and (other.rank or 0) < mine for other in self._others()
        )

    def _others(self) -> Iterator[ProcessIdentity]:
        with suppress(OSError):
            now = self._file.stat().st_mtime
            for file in self._file.parent.glob(f"{self._address.stem}.waits*"):
                with suppress(OSError, ValueError, KeyError, TypeError):  # just removed, or half written
                    if file != self._file and now - file.stat().st_mtime < _RECENT:
                        yield ProcessIdentity.read(json.loads(file.read_text(encoding="utf-8")))

    def _file_of(self, rank: int) -> Path:
        return self._address.with_suffix(f".waits{rank}")
