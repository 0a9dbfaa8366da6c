"""Files that are on disk whole or not at all, also after a power cut.

A rename may reach the disk before the content of the file, and a new name is lost where its folder was not
written. So content is forced to disk first (fsync), then the folders that hold the names, and last comes the
file that vouches for both.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_NOT_FOR_FOLDERS = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EPERM}
"""What systems and network file systems say that cannot force folders to disk."""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, even through a power cut."""
    write_parts(path, [text])


def write_parts(path: Path, parts: Iterable[str], kept: Path | None = None) -> None:
    """Write texts as they come to a file that is there whole or not at all.

    What was written when `parts` raises goes to `kept`, if there is anything and a place for it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # several processes may write one file
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except Exception:
        if kept is not None and part.exists() and part.stat().st_size:
            part.replace(kept)
        raise
    finally:
        part.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Force the content of a file, or the names in a folder, to disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(path: Path) -> None:
    """Force the names in a folder to disk, on systems that can."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
