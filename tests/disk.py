"""A disk that loses what was not forced onto it, to see what a power cut leaves behind.

While it records, every `os.fsync` of this process is noted: the content of a file, or the names in a folder.
Libraries that write from C++ or Rust need no notice: what they wrote is kept once it is forced to disk, and
is lost otherwise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pytest

Names = dict[str, tuple[int, bool]]
"""Name in a folder → its number on the disk (inode), and whether it is a folder."""


@dataclass(frozen=True)
class Moment:
    """What had been forced to disk, and what the processes saw."""

    content: Mapping[int, bytes]
    """Number of a file → its content when it was last forced to disk."""
    names: Mapping[int, Names]
    """Number of a folder → its names when they were last forced to disk."""
    seen_sizes: Mapping[int, int]
    seen_names: Mapping[int, Names]


class Disk:
    """The disk below a folder; `moments` has one from just before each `os.fsync`, and one from the end."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._number = root.stat().st_ino
        self._content: dict[int, bytes] = {}
        self._names: dict[int, Names] = {}
        self._held: list[int] = []
        self._lock = Lock()
        self.moments: list[Moment] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what this process forces to disk."""
        fsync = os.fsync

        def noting(number: int) -> None:
            with self._lock:
                self.moments.append(self._moment())
                fsync(number)
                self._note(number)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", noting)
            try:
                yield
            finally:
                self.moments.append(self._moment())
                for number in self._held:
                    os.close(number)

    def _note(self, number: int) -> None:
        found, path = os.fstat(number), Path(f"/proc/self/fd/{number}").readlink()
        if not path.is_relative_to(self._root):
            return
        self._held.append(os.dup(number))  # or another file may get its number
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = _names(path)
        else:
            self._content[found.st_ino] = path.read_bytes()

    def _moment(self) -> Moment:
        sizes: dict[int, int] = {}
        names: dict[int, Names] = {}
        for place, _, _ in os.walk(self._root):
            there = _names(Path(place))
            names[Path(place).stat().st_ino] = there
            for name, (number, is_folder) in there.items():
                if not is_folder:
                    sizes[number] = (Path(place) / name).lstat().st_size
        return Moment(dict(self._content), dict(self._names), sizes, names)

    def restore(self, moment: Moment, into: Path, names: str, seed: int = 0) -> Path:
        """Write what is left after a power cut into a new folder, which is returned.

        Names that have reached the disk are those that were `forced` to; all that were `seen`, as where the
        journal of ext4 was written; or a `mixture` that the seed decides. A file whose content was not forced
        to disk holds zeros, as many as were seen.
        """
        self._restore(moment, self._number, into, names, np.random.default_rng(seed))
        return into

    def _restore(
        self, moment: Moment, folder: int, into: Path, names: str, random: np.random.Generator
    ) -> None:
        into.mkdir()
        forced, seen = (found.get(folder, {}) for found in (moment.names, moment.seen_names))
        either = [forced, seen]
        for name in sorted(forced.keys() | seen.keys()):
            there = {"forced": forced, "seen": seen, "mixture": either[random.integers(2)]}[names].get(name)
            if there is None:
                continue
            number, is_folder = there
            if is_folder:
                self._restore(moment, number, into / name, names, random)
            else:
                size = moment.seen_sizes.get(number, 0)
                (into / name).write_bytes(moment.content.get(number, b"").ljust(size, b"\0"))


def _names(folder: Path) -> Names:
    with os.scandir(folder) as entries:
        return {entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries}
