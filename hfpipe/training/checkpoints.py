"""Checkpoints that are known to be whole: sizes and digests of their files, written last, say so.

A training resumes from the newest whole one. That is found out by reading all of it, so the process that
prepares the stage does so once, and leaves its choice to the processes that train.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter

from hfpipe.report import FileDigest
from hfpipe.store.files import sync_folder
from hfpipe.store.manifest import describe_size, find_damage, record_files
from hfpipe.store.sealed import read_sealed, write_sealed

MANIFEST = "complete.json"
STATE = "trainer_state.json"
"""File of Trainer without which a training cannot resume: it counts the steps."""
CHOICE = "resume.json"
"""File next to the checkpoints that names the one to resume from."""
UNFINISHED = "was not finished"
_FILES = TypeAdapter(dict[str, FileDigest | int])
"""File → what it holds, or only its size in a checkpoint of an earlier version."""


def seal(checkpoint: Path) -> None:
    """Force a finished checkpoint to disk, and write down what it consists of."""
    files = record_files(checkpoint, without={MANIFEST})
    sync_folder(checkpoint.parent)
    write_sealed(checkpoint / MANIFEST, _FILES.dump_json(dict(files)).decode())


def fault(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be used, or None when it is whole. Reads all of it."""
    try:
        files = _FILES.validate_json(read_sealed(checkpoint / MANIFEST))
    except FileNotFoundError:
        return UNFINISHED
    except (OSError, ValueError):
        return f"{MANIFEST} is damaged"
    if STATE not in files:
        return f"{STATE} is missing"
    for name, recorded in files.items():
        size = recorded if isinstance(recorded, int) else recorded.size
        if (why := describe_size(checkpoint / name, size)) is not None:
            return f"{name} {why}"
    digests = {name: recorded for name, recorded in files.items() if not isinstance(recorded, int)}
    return next((f"{name} {why}" for name, why in find_damage(checkpoint, digests)), None)


def newest_checkpoint(folder: Path, *, keeps_best: bool = False) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint of a run, and why newer ones are passed over.

    With `keeps_best` the best one before it has to be whole as well.
    """
    passed: list[str] = []
    for checkpoint in checkpoints(folder):
        reason = fault(checkpoint) or (_describe_fault_of_best(checkpoint) if keeps_best else None)
        if reason is None:
            return checkpoint, passed
        passed.append(f"{checkpoint.name}: {reason}")
    return None, passed


def checkpoints(folder: Path) -> Sequence[Path]:
    """Return the checkpoints of a run, whole or not, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def choose_checkpoint(folder: Path, *, keeps_best: bool) -> list[str]:
    """Choose the checkpoint to resume from; return a line for each newer one, which cannot be used.

    Those are called `unused-checkpoint-…` from now on, as the steps after the chosen one will be saved
    again; what was not finished is removed.
    """
    checkpoint, passed = newest_checkpoint(folder, keeps_best=keeps_best)
    for line in passed:
        name, _, reason = line.partition(": ")
        unused = folder / f"unused-{name}"
        shutil.rmtree(unused, ignore_errors=True)
        (folder / name).rename(unused)
        if reason == UNFINISHED:
            shutil.rmtree(unused, ignore_errors=True)
    write_sealed(folder / CHOICE, json.dumps({"checkpoint": checkpoint.name if checkpoint else None}))
    where = checkpoint.name if checkpoint is not None else "the beginning"
    return [f"{line}; resumes from {where}" for line in passed]


def chosen_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that was chosen to resume from, or the newest whole one if there is no choice."""
    if not (folder / CHOICE).exists():
        return newest_checkpoint(folder)[0]
    name = json.loads(read_sealed(folder / CHOICE))["checkpoint"]
    return folder / name if name is not None else None


def _describe_fault_of_best(checkpoint: Path) -> str | None:
    """Return why the best model so far, which Trainer loads at the end, cannot be used, or None."""
    best = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("best_global_step")
    if not best or checkpoint.name == f"checkpoint-{best}":
        return None
    other = checkpoint.with_name(f"checkpoint-{best}")
    reason = fault(other) if other.is_dir() else "is missing"
    return f"the best one before it, {other.name}: {reason}" if reason is not None else None
