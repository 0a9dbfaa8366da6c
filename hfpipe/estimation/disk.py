"""Compares the disk that the stages of a plan need with what is free."""

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
"""Ends of names of files whose rows take more room than the file."""
EXPANSION = 4
"""How many times as large their rows are; texts compress to about a quarter."""
CERTAIN = 0.7
"""Part of the estimate by which `run` judges that something clearly does not fit."""


@dataclass(frozen=True)
class DiskUse:
    """Bytes that a stage writes into its folder."""

    peak: float
    """The most while it runs, with checkpoints and temporary files."""
    kept: float
    """What stays when it is done."""


@dataclass(frozen=True)
class DiskSpace:
    """What the rest of a plan needs, and what is free."""

    folder: Path
    """Folder of the runs."""
    needed: float
    """Bytes at the moment of the run when it takes the most."""
    free: int
    """Bytes that this user can still write on the file system of `folder`."""
    unknown: tuple[str, ...] = ()
    """Stages that are not counted, because what they write is not known yet."""
    cache: tuple[Path, int] | None = None
    """The Hub's cache and what is free there, where a stage still loads something from the Hub."""

    @property
    def fits(self) -> bool:
        """Whether there is room for what is counted."""
        return self.needed <= self.free

    @property
    def clearly_lacking(self) -> bool:
        """Whether there is no room even if the estimate is too high."""
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
    """Compare what the stages write one after the other with what is free; `uses` has None where unknown.

    Stages that are done need nothing. What an interrupted stage has written already is not needed again.
    """
    needed, kept, unknown = 0.0, 0.0, []
    for step, use in zip(steps, uses, strict=True):
        if step.done:
            continue
        if use is None:
            unknown.append(step.name)
            continue
        there = bytes_on_disk([step.folder])
        needed = max(needed, kept + use.peak - min(there, use.peak))
        kept += use.kept - min(there, use.kept)
    return DiskSpace(
        runs, needed, free_bytes(runs), tuple(unknown), _cache() if loads_from_hub(steps) else None
    )


def loads_from_hub(steps: Iterable[PlannedStage]) -> bool:
    """Return whether a stage that is to run reads something of the Hub."""
    todo = [step.stage for step in steps if not step.done]
    places = any(place.hub is not None for stage in todo for _, place in collect(stage, Place))
    return places or any(isinstance(stage, Dataset) and stage.source.hub is not None for stage in todo)


def free_bytes(folder: Path) -> int:
    """Return what is free on the file system on which a folder is, or will be."""
    folder = folder.absolute()
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _cache() -> tuple[Path, int]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    return cache, free_bytes(cache)


def disk_of_data(stage: Stage, base: Path) -> DiskUse | None:
    """Return what a data set takes, from the size of its files; None where these are not known.

    Rows are written to a temporary file and then, with their final labels, once more.
    """
    if not isinstance(stage, Dataset) or stage.source.hub is not None:
        return None
    try:
        files = list(_files(stage, base))
    except DataError:
        return None
    if not files:
        return None  # user code makes the rows, or a stage above
    rows = sum(each.stat().st_size * (EXPANSION if each.suffix in COMPRESSED else 1) for each in files)
    return DiskUse(peak=2 * rows, kept=rows)


def _files(stage: Dataset, base: Path) -> Iterator[Path]:
    """Yield the local files that a data set is made of."""
    for _, place in collect(stage, Place):
        path = locate_place(place, base, {}) if place.stage is None else None
        yield from _list_files(path) if path is not None else ()
    for _, pattern in collect(stage, Glob):
        for path in find_matches(pattern, base):
            yield from _list_files(path)


def disk_of_evaluation(stage: Evaluate, known: Known) -> DiskUse | None:
    """Return what an evaluation takes: a copy of the split's rows with the predictions of each system."""
    folder = known.folder(stage.data)
    if folder is None or not (folder / stage.split).is_dir():
        return None
    rows = bytes_on_disk([folder / stage.split])
    systems = 1 + len(stage.baselines)
    return DiskUse(peak=2 * systems * rows, kept=systems * rows)


def bytes_on_disk(folders: Iterable[Path]) -> int:
    """Return the size of all files in some folders."""
    return sum(path.stat().st_size for folder in folders for path in _list_files(folder))


def _list_files(path: Path) -> Iterator[Path]:
    yield from [path] if path.is_file() else (each for each in path.rglob("*") if each.is_file())
