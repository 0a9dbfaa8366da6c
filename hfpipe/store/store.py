"""Stage folders on disk: their names, when they are finished, and the lock of the process that writes."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from hfpipe.contract import Stage
from hfpipe.errors import HfpipeError, StageError, get_first_line
from hfpipe.references.places import Code, Glob, Place, collect, find_matches, locate_place
from hfpipe.report import Record, Report
from hfpipe.store.artifacts import CARD, EXPLANATIONS, METRICS, SAMPLES
from hfpipe.store.digests import Digests
from hfpipe.store.files import sync_folder, write_atomically
from hfpipe.store.identity import KEY_LENGTH, StageIdentity
from hfpipe.store.manifest import DAMAGED, describe_damage, describe_size, record_files
from hfpipe.store.sealed import read_sealed, write_sealed
from hfpipe.store.stage_names import get_plain_name, make_folder_name
from hfpipe.task import TaskConfig

R = TypeVar("R", bound=Record)
NOT_RECORDED = frozenset({".work", "stage.log", "report.json", CARD, EXPLANATIONS})
"""Entries of a stage's folder without a digest in its report, because they may change afterwards."""


class StageFile(Record):
    """`stage.json`: the identity, and what another process needs to run or resume the stage."""

    name: str
    """The stage's name in the recipe."""
    base: str
    """The recipe's folder, against which relative paths are resolved."""
    folders: dict[str, str]
    """Upstream stages that are read → the names of their folders, next to this one."""
    identity: StageIdentity
    """Everything that the key depends on."""


def identify(stage: Stage, seed: int, base: Path, keys: Mapping[str, str], digests: Digests) -> StageIdentity:
    """Return what determines the stage's output; `keys` has the key of every upstream stage.

    Raises DataError when a local path does not exist.
    """
    files: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for _, place in collect(stage, Place):
        if place.stage is not None:
            inputs[place.stage] = keys[place.stage]
        elif (path := locate_place(place, base, {})) is not None:
            files[place] = digests.compute(path)
    for code in collect_user_code(stage):
        files[code.file] = digests.compute(base / code.file)
    for _, pattern in collect(stage, Glob):
        for path in find_matches(pattern, base):
            absolute = Path(pattern).expanduser().is_absolute()
            files[str(path) if absolute else os.path.relpath(path, base)] = digests.compute(path)
    return StageIdentity(
        kind=stage.kind,
        version=type(stage).version,
        task_version=max(
            (type(task).version for _, task in stage if isinstance(task, TaskConfig)), default=1
        ),
        seed=stage.get_seed(seed),
        settings=stage.model_dump(mode="json"),
        files=dict(sorted(files.items())),
        inputs=dict(sorted(inputs.items())),
        neutral=stage.find_neutral(),
    )


def collect_user_code(stage: Stage) -> Iterator[Code]:
    """Yield the user code named in a stage's settings."""
    yield from (code for _, code in collect(stage, Code))
    for _, value in stage:
        if isinstance(value, TaskConfig) and value.code is not None:
            yield value.code


class Store:
    """The stage folders of a recipe, `ROOT/NAME-KEY`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_folder(self, name: str, key: str) -> Path:
        """Return the folder of a stage with this key, whether it exists or not."""
        return self.root / make_folder_name(name, key)

    def find_others(self, name: str, key: str) -> list[Path]:
        """Return finished folders of the stage under other keys, newest first."""
        found = [
            path
            for path in self.root.glob(f"{get_plain_name(name)}-{'[0-9a-f]' * KEY_LENGTH}")
            if is_done(path) and path != self.get_folder(name, key) and _find_maker(path) in (name, "")
        ]
        return sorted(found, key=lambda path: (path / "report.json").stat().st_mtime, reverse=True)

    @contextmanager
    def lock(self, folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
        """Hold the folder's lock; if another process has it, call `waiting` with that process, and wait.

        The operating system releases the lock when its holder dies for any reason.
        """
        place = self.root / ".locks" / folder.name
        place.parent.mkdir(parents=True, exist_ok=True)
        owner = place.with_suffix(".owner")
        lock = FileLock(place.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(_read_text(owner) or "another process")
            lock.acquire()
        try:
            self._wait_for_workers(folder, waiting)
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def share(self, folder: Path, rank: int) -> Iterator[None]:
        """Hold the folder's lock for a worker process of the holder of `lock`.

        If the holder dies, the next holder waits for its workers.
        """
        with FileLock(self.root / ".locks" / f"{folder.name}.rank{rank}.lock"):
            yield

    def _wait_for_workers(self, folder: Path, waiting: Callable[[str], None]) -> None:
        for place in sorted((self.root / ".locks").glob(f"{folder.name}.rank*.lock")):
            lock = FileLock(place)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                rank = place.name.removesuffix(".lock").rpartition(".rank")[2]
                waiting(f"process {rank} of a run that has ended")
                lock.acquire()
            lock.release()

    def find_holder(self, folder: Path) -> str:
        """Return the process that holds the lock, as `process 12 on HOST`; empty if none does."""
        owner = _read_text(self.root / ".locks" / f"{folder.name}.owner")
        known = re.fullmatch(r"process (\d+) on (.+)", owner)
        here = known is not None and known[2] == socket.gethostname()
        return "" if known is not None and here and not _is_alive(int(known[1])) else owner

    def begin(self, folder: Path, file: StageFile) -> None:
        """Prepare the folder for writing: remove files of an earlier attempt, except scratch and metrics."""
        folder.mkdir(parents=True, exist_ok=True)
        for item in folder.iterdir():
            if item.name in (".work", METRICS, SAMPLES):
                continue
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        (folder / ".work").mkdir(exist_ok=True)
        write_atomically(folder / "stage.json", file.model_dump_json(indent=1))
        for above in (
            self.root,
            *self.root.absolute().parents[:2],
        ):  # otherwise the name of the folder may be lost
            sync_folder(above)

    def finish(self, folder: Path, report: Report) -> None:
        """Write the report, which marks the stage as done, and remove its scratch.

        All files in the report are flushed to disk first.
        """
        files = record_files(folder, without=NOT_RECORDED)
        whole = report.model_copy(update={"files": files})
        write_sealed(folder / "report.json", whole.model_dump_json(indent=1))
        self.clean(folder)

    def clean(self, folder: Path) -> None:
        """Remove the scratch of a finished stage, which is left over from a run that was killed."""
        shutil.rmtree(folder / ".work", ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def is_done(folder: Path) -> bool:
    """Return whether the stage in this folder is finished."""
    return (folder / "report.json").is_file()


def read_report(folder: Path) -> Report:
    """Return a finished stage's report. Raises StageError when it is damaged."""
    return _parse(folder / "report.json", Report)


def read_stage(folder: Path) -> StageFile:
    """Return the `stage.json` of a stage. Raises StageError when it is damaged or not that of a stage."""
    return _parse(folder / "stage.json", StageFile)


@contextmanager
def report_unreadable(path: Path) -> Iterator[None]:
    """Raise errors in reading a file of a finished stage as a StageError that says how to restore it."""
    try:
        yield
    except (HfpipeError, MemoryError):
        raise
    except Exception as error:  # libraries have their own errors for a damaged file
        raise StageError(
            f"{path}: cannot be read ({get_first_line(error)}); {suggest_restoring(path.parent)}"
        ) from error


def check_whole(folder: Path, digests: Digests) -> None:
    """Raise StageError for the first file of a finished stage that differs from what the stage wrote.

    A file is not read again if its size, times and inode are unchanged, so that a run reads its inputs once
    and not in each stage. Every program that changes a file changes these. A disk error does not: `hfpipe
    verify` reads everything. There are no digests for folders that no stage wrote, or that an earlier version
    wrote.
    """
    if not is_done(folder):
        return
    recorded = read_report(folder).files

    def compare(name: str) -> str | None:
        path = folder / name
        changed = describe_size(path, recorded[name].size)
        return changed or (None if digests.compute(path) == recorded[name].sha256 else DAMAGED)

    with ThreadPoolExecutor() as pool:
        for name, why in zip(recorded, pool.map(compare, recorded), strict=True):
            if why is not None:
                raise StageError(describe_loss(folder, name, why))


def check_file(path: Path) -> None:
    """Raise StageError when a file of a finished stage differs from what the stage wrote. Reads all of it."""
    recorded = read_report(path.parent).files.get(path.name) if is_done(path.parent) else None
    if recorded is not None and (why := describe_damage(path, recorded)) is not None:
        raise StageError(describe_loss(path.parent, path.name, why))


def describe_loss(folder: Path, name: str, why: str) -> str:
    """Return the message about a changed or missing file of a finished stage, with advice."""
    return f"{folder / name}: {why}; {suggest_restoring(folder)}"


def is_stage_folder(name: str) -> bool:
    """Return whether a folder name is that of a stage: a name and a key."""
    return re.fullmatch(rf".+-[0-9a-f]{{{KEY_LENGTH}}}", name) is not None


def suggest_restoring(folder: Path) -> str:
    """Return advice for a folder that is missing, or that lacks a file."""
    folder = folder.parent if folder.name == ".work" else folder
    if (folder / "stage.json").is_file():
        return f"delete {folder} and run its recipe again, which recreates it"
    if is_stage_folder(folder.name):
        return "it is the folder of a stage; run its recipe again, which recreates it"
    return (
        "correct the file, or copy it again"
        if folder.exists()
        else "correct the path, or copy the folder there"
    )


def _find_maker(folder: Path) -> str:
    """Return the name of the stage that wrote a folder; empty if its `stage.json` is damaged."""
    try:
        return read_stage(folder).name
    except StageError:
        return ""


def _parse(path: Path, model: type[R]) -> R:
    with report_unreadable(path):
        return model.model_validate_json(read_sealed(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
