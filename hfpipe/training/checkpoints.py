"""Verifies that checkpoints are complete, by a manifest with sizes and digests that is written last.

A training resumes from the newest complete checkpoint. Verification reads all files, so the process that
prepares the stage does it once, and stores its choice for the processes that train.
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
"""File of Trainer that counts the steps; a training cannot resume without it."""
CHOICE = "resume.json"
"""File next to the checkpoints that names the one to resume from."""
UNFINISHED = "was not finished"
_FILES = TypeAdapter(dict[str, FileDigest | int])
"""File → its size and digest, or only its size in checkpoints of earlier versions."""


def write_manifest(checkpoint: Path) -> None:
    """Flush a finished checkpoint to disk, and write the manifest of its files."""
    files = record_files(checkpoint, without={MANIFEST})
    sync_folder(checkpoint.parent)
    write_sealed(checkpoint / MANIFEST, _FILES.dump_json(dict(files)).decode())


def find_fault(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be used, None if it is complete. Reads all files."""
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


def find_newest_checkpoint(folder: Path, *, keeps_best: bool = False) -> tuple[Path | None, list[str]]:
    """Return the newest complete checkpoint of a run, and the reasons why newer ones are skipped.

    With `keeps_best`, the best checkpoint before it must be complete too.
    """
    passed: list[str] = []
    for checkpoint in list_checkpoints(folder):
        reason = find_fault(checkpoint) or (_describe_fault_of_best(checkpoint) if keeps_best else None)
        if reason is None:
            return checkpoint, passed
        passed.append(f"{checkpoint.name}: {reason}")
    return None, passed


def list_checkpoints(folder: Path) -> Sequence[Path]:
    """Return the checkpoints of a run, complete or not, newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def choose_checkpoint(folder: Path, *, keeps_best: bool) -> list[str]:
    """Choose the checkpoint to resume from; return a line for each newer checkpoint that cannot be used.

    Newer checkpoints are renamed to `unused-checkpoint-…`, because the steps after the chosen one will be
    saved again; unfinished ones are removed.
    """
    checkpoint, passed = find_newest_checkpoint(folder, keeps_best=keeps_best)
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


def get_chosen_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that was chosen to resume from, or the newest complete one if none was chosen."""
    if not (folder / CHOICE).exists():
        return find_newest_checkpoint(folder)[0]
    name = json.loads(read_sealed(folder / CHOICE))["checkpoint"]
    return folder / name if name is not None else None


def _describe_fault_of_best(checkpoint: Path) -> str | None:
    """Return why the best checkpoint so far, which Trainer loads at the end, cannot be used, or None."""
    best = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("best_global_step")
    if not best or checkpoint.name == f"checkpoint-{best}":
        return None
    other = checkpoint.with_name(f"checkpoint-{best}")
    reason = find_fault(other) if other.is_dir() else "is missing"
    return f"the best one before it, {other.name}: {reason}" if reason is not None else None
