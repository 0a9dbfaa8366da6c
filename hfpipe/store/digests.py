"""Digests of local files and folders, cached so that a large corpus is read once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from hfpipe.errors import DataError
from hfpipe.references.places import check_regular
from hfpipe.store.artifacts import CARD

SETTLED = 2_000_000_000
"""Minimum age of a file in nanoseconds for its timestamps to identify its content (as in git)."""


class Digests:
    """Content digests of files and folders, cached next to the runs and valid while times and sizes agree."""

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[str, list[str | int]] = {}
        if cache is not None:
            with suppress(OSError, ValueError):
                known = json.loads(cache.read_text(encoding="utf-8"))
                self._known = known if isinstance(known, dict) else {}

    def compute(self, path: Path) -> str:
        """Return the sha256 (hex) of a file, or of a folder's relative paths and contents.

        Raises DataError when a file cannot be read, or is a pipe or a device, which may never end.
        """
        if not path.is_dir():
            return self._digest_file(path)
        card = path / CARD if (path / "stage.json").is_file() else None  # evaluations rewrite it
        parts = [
            f"{item.relative_to(path).as_posix()}\0{self._digest_file(item)}\n"
            for item in sorted(path.rglob("*"))
            if item.exists() and not item.is_dir() and item != card
        ]
        return hashlib.sha256("".join(parts).encode("utf-8", "surrogateescape")).hexdigest()

    def _digest_file(self, path: Path) -> str:
        try:
            check_regular(path)
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
            known = self._known.get(str(path))
            if isinstance(known, list) and known[1:] == stamp:
                return str(known[0])
            digest = compute_digest(path)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: cannot be read ({cause}); fix the path or its permissions") from None
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED:
            self._known[str(path)] = [digest, *stamp]
        return digest

    def save(self) -> None:
        """Save the digests for the next run; a folder that cannot be written is not an error."""
        if self._cache is None or not self._known:
            return
        with suppress(OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            part = self._cache.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps(self._known), encoding="utf-8")
            part.replace(self._cache)


def compute_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file. Raises OSError when it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
