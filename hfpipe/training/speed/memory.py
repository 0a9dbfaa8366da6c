"""Stores measurements on this machine, so that the next run of the same model does not repeat them.

They are in a small JSON file in the user's cache directory. It is optional: a file that cannot be read or
written, or has other contents, is ignored. Measurements on a busy machine are not stored.
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
from hfpipe.store.files import write_atomically

MOST = 200
"""Maximum number of entries; the oldest are dropped."""


Positive = Annotated[float, Field(gt=0)]
CPU_LINES = ("vendor_id", "model name", "cpu family", "model\t", "stepping", "flags", "Features", "CPU part")
"""Lines of /proc/cpuinfo that distinguish processors."""


class ModeTiming(Settings):
    """Duration of a micro-batch in a mode of torch.compile."""

    seconds: Positive
    compiling: Positive
    """Seconds of compiling, less if a cache had the code."""


class Measured(Settings):
    """Durations of the forward and backward pass of a micro-batch; None if not measured."""

    gemm: dict[str, Positive] = {}
    """Dtype → GFLOP/s of a matrix product of the model's size."""
    eager: dict[str, Positive] = {}
    """Dtype → seconds."""
    compiled: dict[str, Positive] = {}
    """Dtype → seconds of the compiled model."""
    compiling: Positive | None = None
    """Seconds of compiling."""
    modes: dict[str, ModeTiming] = {}
    """Mode of torch.compile → its timing, if there was a choice."""
    busy: bool = False
    """Whether other processes used the cores meanwhile, so that the measurement is not stored."""


class Entry(Settings):
    """Value of a key in the file."""

    machine: str
    """Digest of the processor and of the versions that compiling depends on."""
    measured: Measured


@dataclass(frozen=True)
class Compilation:
    """Cost and gain of compiling a model."""

    seconds: float
    saved: float
    """Share of an eager micro-batch that a compiled one saves; negative where it is slower."""


RECENT = 5
"""Number of models compiled last on this machine; their median is the expectation for the next."""


def get_memory_file() -> Path:
    """Return the path of the file with measurements."""
    folder = os.environ.get("XDG_CACHE_HOME")
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return (Path(folder) if folder else Path(home) / ".cache") / "hfpipe" / "speed.json"


def compute_key(what: Mapping[str, Any]) -> str:
    """Return the key of a measurement: the processor, and what determines the speed of a step."""
    lines = sorted({line for line in _read_cpuinfo() if line.startswith(CPU_LINES)})
    text = json.dumps({"processor": [platform.machine(), *lines], **what}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def get_processor_name() -> str:
    """Return the name of the processor, from its vendor if the system provides it."""
    names = {line.partition(":")[2].strip() for line in _read_cpuinfo() if line.startswith("model name")}
    return " ".join(sorted(names)) or platform.processor() or platform.machine()


def _read_cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def load_measurement(file: Path, key: str) -> Measured:
    """Return the stored measurement, or an empty one."""
    found = _parse_entry(_read_entries(file).get(key))
    return Measured() if found is None else found.measured


def store_measurement(file: Path, key: str, machine: str, measured: Measured) -> None:
    """Store a measurement for the next run, if the file is writable and the machine was not busy."""
    if measured.busy:
        return
    others = {name: entry for name, entry in _read_entries(file).items() if name != key}
    entry = Entry(machine=machine, measured=measured)
    kept = dict(list(others.items())[1 - MOST :]) | {key: entry.model_dump()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(kept, indent=1))
    except OSError:
        return


def estimate_compilation(file: Path, machine: str) -> Compilation | None:
    """Return the median cost and gain of compiling the last models, None if there were none."""
    found = [
        Compilation(measured.compiling, 1 - compiled / measured.eager[dtype])
        for measured in _list_measured(file, machine)
        if measured.compiling is not None
        for dtype, compiled in measured.compiled.items()
        if dtype in measured.eager
    ]
    return _compute_median(found[-RECENT:])


def estimate_mode(file: Path, machine: str, mode: str, default: str) -> Compilation | None:
    """Return the median cost of a mode, and its gain over the default mode, for the last models with both."""
    found = [
        Compilation(measured.modes[mode].compiling, 1 - measured.modes[mode].seconds / usual.seconds)
        for measured in _list_measured(file, machine)
        if mode in measured.modes and (usual := measured.modes.get(default)) is not None
    ]
    return _compute_median(found[-RECENT:])


def _list_measured(file: Path, machine: str) -> list[Measured]:
    entries = map(_parse_entry, _read_entries(file).values())
    return [entry.measured for entry in entries if entry is not None and entry.machine == machine]


def _compute_median(found: list[Compilation]) -> Compilation | None:
    if not found:
        return None
    seconds, saved = ([getattr(each, name) for each in found] for name in ("seconds", "saved"))
    return Compilation(statistics.median(seconds), statistics.median(saved))


def _parse_entry(found: Any) -> Entry | None:
    try:
        return Entry.model_validate(found)
    except ValidationError:
        return None


def _read_entries(file: Path) -> dict[str, Any]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}
