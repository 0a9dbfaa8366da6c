"""What was measured on this machine before, so that the next run of the same model need not measure again.

A small JSON file in the user's cache directory. It is an aid only: a file that cannot be read or written, or
holds something else, is as good as none. Nothing is kept that was measured while the machine was busy.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from hfpipe.contract import Settings
from hfpipe.store.files import write_whole

MOST = 200
"""Entries that are kept, the newest."""


Positive = Annotated[float, Field(gt=0)]
CPU_LINES = ("vendor_id", "model name", "cpu family", "model\t", "stepping", "flags", "Features", "CPU part")
"""What /proc/cpuinfo tells one processor from another by."""


class Measured(Settings):
    """How long the forward and backward passes of a micro-batch take; None is not measured."""

    gemm: dict[str, Positive] = {}
    """Dtype → GFLOP/s of a matrix product of the model's size."""
    eager: dict[str, Positive] = {}
    """Dtype → seconds."""
    compiled: dict[str, Positive] = {}
    """Dtype → seconds of the compiled model."""
    compiling: Positive | None = None
    """Seconds that it took to compile it."""
    busy: bool = False
    """Whether other processes had the cores meanwhile, which is why it is not remembered."""


class Entry(Settings):
    """What the file holds under one key."""

    machine: str
    """The processor and the versions that compiling depends on, as a digest."""
    measured: Measured


@dataclass(frozen=True)
class Compilation:
    """What compiling a model takes and gives."""

    seconds: float
    saved: float
    """Share of an eager micro-batch that a compiled one saves; negative where it is slower."""


RECENT = 5
"""Models compiled on this machine whose median tells what to expect of the next."""


def memory_file() -> Path:
    """Return where measurements are kept."""
    folder = os.environ.get("XDG_CACHE_HOME")
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return (Path(folder) if folder else Path(home) / ".cache") / "hfpipe" / "speed.json"


def key_of(what: Mapping[str, Any]) -> str:
    """Return the name of a measurement: of this processor, and of what decides how long a step takes."""
    lines = sorted({line for line in _cpuinfo() if line.startswith(CPU_LINES)})
    text = json.dumps({"processor": [platform.machine(), *lines], **what}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def processor() -> str:
    """Return the name of the processor, as its vendor calls it where the system tells."""
    names = {line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")}
    return " ".join(sorted(names)) or platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def recall(file: Path, key: str) -> Measured:
    """Return what was measured; nothing where the file does not tell."""
    found = _entry(_entries(file).get(key))
    return Measured() if found is None else found.measured


def remember(file: Path, key: str, machine: str, measured: Measured) -> None:
    """Keep a measurement for the next run, if that is possible and the machine was not busy."""
    if measured.busy:
        return
    others = {name: entry for name, entry in _entries(file).items() if name != key}
    entry = Entry(machine=machine, measured=measured)
    kept = dict(list(others.items())[1 - MOST :]) | {key: entry.model_dump()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(kept, indent=1))
    except OSError:
        return


def expected_compilation(file: Path, machine: str) -> Compilation | None:
    """Return what compiling took and gave in the median of the last models, None where there was none."""
    entries = [entry for entry in map(_entry, _entries(file).values()) if entry is not None]
    found = [
        Compilation(entry.measured.compiling, 1 - compiled / entry.measured.eager[dtype])
        for entry in entries
        if entry.machine == machine and entry.measured.compiling is not None
        for dtype, compiled in entry.measured.compiled.items()
        if dtype in entry.measured.eager
    ][-RECENT:]
    if not found:
        return None
    seconds, saved = ([getattr(each, name) for each in found] for name in ("seconds", "saved"))
    return Compilation(statistics.median(seconds), statistics.median(saved))


def _entry(found: Any) -> Entry | None:
    try:
        return Entry.model_validate(found)
    except ValidationError:
        return None


def _entries(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
