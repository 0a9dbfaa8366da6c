"""Compares the disk space that the stages of a plan need with the free space."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfpipe import number_format
from hfpipe.contract import Stage
from hfpipe.errors import DataError
from hfpipe.estimation.local_artifacts import Known
from hfpipe.references.places import Glob, Place, collect, find_matches, locate_place
from hfpipe.runner import PlannedStage
from hfpipe.stages.dataset import Dataset
from hfpipe.stages.evaluate import Evaluate

COMPRESSED = frozenset({".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet", ".xlsx"})
"""File name suffixes of compressed files."""
EXPANSION = 4
"""Ratio of the size of their rows to the file; texts compress to about a quarter."""
CERTAIN = 0.7
"""Fraction of the estimate above which `run` warns that it does not fit."""


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a stage writes into its folder."""

    peak: float
    """Maximum during the stage, with checkpoints and temporary files."""
    kept: float
    """Size after the stage is finished."""


@dataclass(frozen=True)
class DiskSpace:
    """The space that the rest of a plan needs, and the free space."""

    folder: Path
    """Folder of the runs."""
    needed: float
    """Maximum number of bytes during the run."""
    free: int
    """Bytes that this user can still write on the file system of `folder`."""
    unknown: tuple[str, ...] = ()
    """Stages that are not counted, because their size is not known yet."""
    cache: tuple[Path, int] | None = None
    """The Hub's cache and its free space, if a stage still loads something from the Hub."""

    @property
    def fits(self) -> bool:
        """Whether the counted stages fit."""
        return self.needed <= self.free

    @property
    def clearly_lacking(self) -> bool:
        """Whether the stages do not fit even if the estimate is too high."""
        return CERTAIN * self.needed > self.free

    def __str__(self) -> str:
        size = number_format.format_bytes
        line = f"needs about {size(self.needed)}, {size(self.free)} free at {self.folder}/"
        if self.unknown:
            line += f"; not counted, as not known yet: {', '.join(self.unknown)}"
        if self.cache is not None:
            folder, free = self.cache
            line += f"; what is loaded from the Hub is not counted, {size(free)} free at {folder}/"
        return line


def compare_disk(steps: Sequence[PlannedStage], uses: Sequence[DiskUse | None], runs: Path) -> DiskSpace:
    """Compare the space that the stages need in sequence with the free space; `uses` has None if unknown.

    Finished stages need nothing. Files of an interrupted stage are not counted again.
    """
    needed, kept, unknown = 0.0, 0.0, []
    for step, use in zip(steps, uses, strict=True):
        if step.done:
            continue
        if use is None:
            unknown.append(step.name)
            continue
        there = measure_bytes([step.folder])
        needed = max(needed, kept + use.peak - min(there, use.peak))
        kept += use.kept - min(there, use.kept)
    return DiskSpace(
        runs,
        needed,
        get_free_bytes(runs),
        tuple(unknown),
        _get_hub_cache() if loads_from_hub(steps) else None,
    )


def loads_from_hub(steps: Iterable[PlannedStage]) -> bool:
    """Return whether a remaining stage loads something from the Hub."""
    todo = [step.stage for step in steps if not step.done]
    places = any(place.hub is not None for stage in todo for _, place in collect(stage, Place))
    return places or any(isinstance(stage, Dataset) and stage.source.hub is not None for stage in todo)


def get_free_bytes(folder: Path) -> int:
    """Return the free bytes on the file system of a folder, which may not exist yet."""
    folder = folder.absolute()
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _get_hub_cache() -> tuple[Path, int]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    return cache, get_free_bytes(cache)


def estimate_data_disk(stage: Stage, base: Path) -> DiskUse | None:
    """Return the disk use of a data set, from the size of its files; None if these are not known.

    Rows are written to a temporary file first, and then with their final labels.
    """
    if not isinstance(stage, Dataset) or stage.source.hub is not None:
        return None
    try:
        files = list(_list_source_files(stage, base))
    except DataError:
        return None
    if not files:
        return None  # rows from user code or a stage above
    rows = sum(each.stat().st_size * (EXPANSION if each.suffix in COMPRESSED else 1) for each in files)
    return DiskUse(peak=2 * rows, kept=rows)


def _list_source_files(stage: Dataset, base: Path) -> Iterator[Path]:
    """Yield the local source files of a data set."""
    for _, place in collect(stage, Place):
        path = locate_place(place, base, {}) if place.stage is None else None
        yield from _list_files(path) if path is not None else ()
    for _, pattern in collect(stage, Glob):
        for path in find_matches(pattern, base):
            yield from _list_files(path)


def estimate_evaluation_disk(stage: Evaluate, known: Known) -> DiskUse | None:
    """Return the disk use of an evaluation: a copy of the split's rows with predictions for each system."""
    folder = known.find_folder(stage.data)
    if folder is None or not (folder / stage.split).is_dir():
        return None
    rows = measure_bytes([folder / stage.split])
    systems = 1 + len(stage.baselines)
    return DiskUse(peak=2 * systems * rows, kept=systems * rows)


def measure_bytes(folders: Iterable[Path]) -> int:
    """Return the total size of all files in folders."""
    return sum(path.stat().st_size for folder in folders for path in _list_files(folder))


def _list_files(path: Path) -> Iterator[Path]:
    yield from [path] if path.is_file() else (each for each in path.rglob("*") if each.is_file())
