"""Checkpoints that are known to be whole: a list of sizes written last says so."""

from __future__ import annotations

import json
from pathlib import Path

from hfpipe.store import write_whole

MANIFEST = "complete.json"


def seal(checkpoint: Path) -> None:
    """Write down what a finished checkpoint consists of."""
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in _files(checkpoint)}
    write_whole(checkpoint / MANIFEST, json.dumps(sizes))


def fault(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be used, or None when it is whole."""
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "was not finished"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
    return None


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint of a run, and why newer ones are passed over."""
    passed: list[str] = []
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        reason = fault(checkpoint)
        if reason is None:
            return checkpoint, passed
        passed.append(f"{checkpoint.name}: {reason}")
    return None, passed


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
