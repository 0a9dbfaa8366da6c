"""Writes files atomically, so that they are complete or absent even after a power cut.

A rename may reach the disk before the content of the file, and a new name is lost if its folder is not
written. Content is therefore flushed to disk first (fsync), then the folders that contain the names, and last
the file with their digests.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_NOT_FOR_FOLDERS = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
"""Errors of systems and network file systems that cannot flush folders to disk."""


def write_atomically(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file atomically, even in a power cut; only its owner can read a `private` one."""
    write_parts(path, [text], private=private)


def write_parts(path: Path, parts: Iterable[str], kept: Path | None = None, *, private: bool = False) -> None:
    """Write texts to a file atomically, as an iterator yields them.

    If `parts` raises or is interrupted, what was written so far, if anything, is moved to `kept`, if that is
    given. A `private` file can be read by its owner only, from the beginning.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # several processes may write one file
    try:
        number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except BaseException:  # `parts` may raise any exception, and Ctrl-C interrupts it
        if kept is not None and part.exists() and part.stat().st_size:
            part.replace(kept)
        raise
    finally:
        part.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk, on systems that support it."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
