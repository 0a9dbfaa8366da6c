"""Files that show which processes are waiting for process 0, as long as its coordinator is missing."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hfpipe.runner.supervision.identity import ProcessIdentity

_RECENT = 30.0
"""Maximum age in seconds of the file of a waiting process."""
_EACH = 1.0
"""Seconds between updates of the file."""


class Presence:
    """The file of this process, which is renewed while it waits, and those of the others.

    A file of a killed process is recognized by its age, according to the clock of the file system.

    Args:
        address: The file in which process 0 publishes its address.
        me: This process.
        world: Number of processes of the run.
    """

    def __init__(self, address: Path, me: ProcessIdentity, world: int) -> None:
        self._address, self._me, self._world = address, me, world
        self._file = self._get_path(me.rank or 0)
        self._renewed: float | None = None

    def renew(self) -> None:
        """Renew the file of this process; a folder that cannot be written is not an error."""
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
        """Remove the file of this process when it stops waiting."""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)

    def find_missing(self) -> list[int]:
        """Return the ranks of the processes that are not waiting, including process 0."""
        there = {self._me.rank, *(other.rank for other in self._find_others())}
        return [rank for rank in range(self._world) if rank not in there]

    def is_first_here(self) -> bool:
        """Return whether this is the lowest waiting rank of those that print to the same terminal."""
        mine = self._me.rank or 0
        return not any(
            other.terminal == self._me.terminal and (other.rank or 0) < mine for other in self._find_others()
        )

    def _find_others(self) -> Iterator[ProcessIdentity]:
        with suppress(OSError):
            now = self._file.stat().st_mtime
            for file in self._file.parent.glob(f"{self._address.stem}.waits*"):
                with suppress(OSError, ValueError, KeyError, TypeError):  # just removed, or incomplete
                    if file != self._file and now - file.stat().st_mtime < _RECENT:
                        yield ProcessIdentity.read(json.loads(file.read_text(encoding="utf-8")))

    def _get_path(self, rank: int) -> Path:
        return self._address.with_suffix(f".waits{rank}")
