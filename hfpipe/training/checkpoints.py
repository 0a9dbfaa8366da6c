"""Checkpoints that are known to be whole: a list of sizes written last says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hfpipe.store.store import write_whole

MANIFEST = "complete.json"
STATE = "trainer_state.json"
"""File of Trainer without which a training cannot resume: it counts the steps."""


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
    if STATE not in sizes:
        return f"{STATE} is missing"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes in place of {size}"
    return None


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint of a run, and why newer ones are passed over."""
    passed: list[str] = []
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        reason = fault(checkpoint)
        if reason is None:
            return checkpoint, passed
        passed.append(f"{checkpoint.name}: {reason}")
    return None, passed


def passed_over(folder: Path) -> Iterator[str]:
    """Yield a line for each checkpoint that cannot be used, and from where the run resumes."""
    checkpoint, passed = newest_checkpoint(folder)
    where = checkpoint.name if checkpoint is not None else "the beginning"
    yield from (f"{reason}; resumes from {where}" for reason in passed)


def _files(checkpoint: Path) -> list[Path]:
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
