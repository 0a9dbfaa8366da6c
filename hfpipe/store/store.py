"""Stages on disk: what names a folder, what makes it finished, and who may write it."""

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
from hfpipe.errors import HfpipeError, StageError, first_line
from hfpipe.references.places import Code, Glob, Place, collect, locate_place, matches
from hfpipe.report import Record, Report
from hfpipe.store.artifacts import CARD, EXPLANATIONS, METRICS, SAMPLES
from hfpipe.store.digests import Digests
from hfpipe.store.files import sync_folder, write_whole
from hfpipe.store.identity import KEY_LENGTH, StageIdentity
from hfpipe.store.manifest import DAMAGED, describe_damage, describe_size, record_files
from hfpipe.store.sealed import read_sealed, write_sealed
from hfpipe.store.stage_names import folder_name, plain_name
from hfpipe.task import TaskConfig

R = TypeVar("R", bound=Record)
NOT_RECORDED = frozenset({".work", "stage.log", "report.json", CARD, EXPLANATIONS})
"""Entries of a stage's folder whose digests its report lacks: log and card may change after the report."""


class StageFile(Record):
    """`stage.json`: the identity, and what another process needs to take the stage up."""

    name: str
    """The stage's name in the recipe."""
    base: str
    """The recipe's folder, against which relative paths are read."""
    folders: dict[str, str]
    """Stages above that are read → their folders' names, next to this one."""
    identity: StageIdentity
    """What the key is made of."""


def identify(stage: Stage, seed: int, base: Path, keys: Mapping[str, str], digests: Digests) -> StageIdentity:
    """Return what decides the stage's output; `keys` has the key of every stage above.

    Raises DataError when a local place is not there.
    """
    files: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for _, place in collect(stage, Place):
        if place.stage is not None:
            inputs[place.stage] = keys[place.stage]
        elif (path := locate_place(place, base, {})) is not None:
            files[place] = digests.of(path)
    for code in user_code(stage):
        files[code.file] = digests.of(base / code.file)
    for _, pattern in collect(stage, Glob):
        for path in matches(pattern, base):
            absolute = Path(pattern).expanduser().is_absolute()
            files[str(path) if absolute else os.path.relpath(path, base)] = digests.of(path)
    return StageIdentity(
        kind=stage.kind,
        version=type(stage).version,
        task_version=max(
            (type(task).version for _, task in stage if isinstance(task, TaskConfig)), default=1
        ),
        seed=stage.own_seed(seed),
        settings=stage.model_dump(mode="json"),
        files=dict(sorted(files.items())),
        inputs=dict(sorted(inputs.items())),
        neutral=stage.neutral(),
    )


def user_code(stage: Stage) -> Iterator[Code]:
    """Yield the user code that a stage's settings name."""
    yield from (code for _, code in collect(stage, Code))
    for _, value in stage:
        if isinstance(value, TaskConfig) and value.code is not None:
            yield value.code


class Store:
    """The folders of one recipe's stages, `ROOT/NAME-KEY`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, key: str) -> Path:
        """Return the folder of a stage with this key, whether it exists or not."""
        return self.root / folder_name(name, key)

    def others(self, name: str, key: str) -> list[Path]:
        """Return finished folders of the stage under other keys, newest first."""
        found = [
            path
            for path in self.root.glob(f"{plain_name(name)}-{'[0-9a-f]' * KEY_LENGTH}")
            if done(path) and path != self.folder(name, key) and _made_as(path) in (name, "")
        ]
        return sorted(found, key=lambda path: (path / "report.json").stat().st_mtime, reverse=True)

    @contextmanager
    def lock(self, folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
        """Hold the folder alone; calls `waiting` with who holds it when that is somebody else.

        The operating system frees the lock when its holder dies, however it dies.
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
        """Hold the folder as one of the processes that work for the holder of `lock`.

        Should the holder die, the next waits for them.
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

    def holder(self, folder: Path) -> str:
        """Return who holds the folder, as `process 12 on HOST`; empty when nobody does."""
        owner = _read_text(self.root / ".locks" / f"{folder.name}.owner")
        known = re.fullmatch(r"process (\d+) on (.+)", owner)
        here = known is not None and known[2] == socket.gethostname()
        return "" if known is not None and here and not _is_alive(int(known[1])) else owner

    def begin(self, folder: Path, file: StageFile) -> None:
        """Prepare the folder for writing: remove what an earlier try left, except scratch and metrics."""
        folder.mkdir(parents=True, exist_ok=True)
        for item in folder.iterdir():
            if item.name in (".work", METRICS, SAMPLES):
                continue
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        (folder / ".work").mkdir(exist_ok=True)
        write_whole(folder / "stage.json", file.model_dump_json(indent=1))
        for above in (self.root, *self.root.absolute().parents[:2]):  # or the folder's own name may be lost
            sync_folder(above)

    def finish(self, folder: Path, report: Report) -> None:
        """Write the report, which marks the stage as done, and remove its scratch.

        All that the report vouches for is forced to disk before.
        """
        files = record_files(folder, without=NOT_RECORDED)
        whole = report.model_copy(update={"files": files})
        write_sealed(folder / "report.json", whole.model_dump_json(indent=1))
        self.clean(folder)

    def clean(self, folder: Path) -> None:
        """Remove the scratch of a stage that is done, which stays where a run was killed before."""
        shutil.rmtree(folder / ".work", ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def done(folder: Path) -> bool:
    """Tell whether the stage in this folder was finished."""
    return (folder / "report.json").is_file()


def read_report(folder: Path) -> Report:
    """Return a finished stage's report. Raises StageError when it is damaged."""
    return _parse(folder / "report.json", Report)


def read_stage(folder: Path) -> StageFile:
    """Return what a stage folder was begun with. Raises StageError when it is damaged or no stage's."""
    return _parse(folder / "stage.json", StageFile)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file of a finished stage that cannot be read, and how to make it again. Raises StageError."""
    try:
        yield
    except (HfpipeError, MemoryError):
        raise
    except Exception as error:  # libraries have their own errors for a damaged file
        raise StageError(
            f"{path}: cannot be read ({first_line(error)}); {advice_for_missing(path.parent)}"
        ) from error


def check_whole(folder: Path, digests: Digests) -> None:
    """Raise StageError when a finished stage no longer holds what it wrote, naming the first such file.

    A file whose size, times and inode are those of an earlier look is not read again, so that a run reads its
    inputs once and not at each stage. Any program that changes a file changes these. A disk that loses a bit
    does not: `hfpipe verify` reads everything. Files of a folder that no stage made, or one of an earlier
    version, are not known.
    """
    if not done(folder):
        return
    recorded = read_report(folder).files

    def compare(name: str) -> str | None:
        path = folder / name
        changed = describe_size(path, recorded[name].size)
        return changed or (None if digests.of(path) == recorded[name].sha256 else DAMAGED)

    with ThreadPoolExecutor() as pool:
        for name, why in zip(recorded, pool.map(compare, recorded), strict=True):
            if why is not None:
                raise StageError(describe_loss(folder, name, why))


def check_file(path: Path) -> None:
    """Raise StageError when a file of a finished stage is not what the stage wrote. Reads all of it."""
    recorded = read_report(path.parent).files.get(path.name) if done(path.parent) else None
    if recorded is not None and (why := describe_damage(path, recorded)) is not None:
        raise StageError(describe_loss(path.parent, path.name, why))


def describe_loss(folder: Path, name: str, why: str) -> str:
    """Return the message that a file in a finished stage's folder is not as it was, and what to do."""
    return f"{folder / name}: {why}; {advice_for_missing(folder)}"


def is_stage_folder(name: str) -> bool:
    """Tell whether a folder is called as those of stages are: a name and a key."""
    return re.fullmatch(rf".+-[0-9a-f]{{{KEY_LENGTH}}}", name) is not None


def advice_for_missing(folder: Path) -> str:
    """Return what to do about a folder that is not there, or lacks a file that it should hold."""
    folder = folder.parent if folder.name == ".work" else folder
    if (folder / "stage.json").is_file():
        return f"delete {folder} and run its recipe again, which makes it again"
    if is_stage_folder(folder.name):
        return "a stage made it; run its recipe again, which makes it again"
    return (
        "correct the file, or copy it again"
        if folder.exists()
        else "correct the path, or copy the folder there"
    )


def _made_as(folder: Path) -> str:
    """Return the name of the stage that made a folder; empty where its file is damaged."""
    try:
        return read_stage(folder).name
    except StageError:
        return ""


def _parse(path: Path, model: type[R]) -> R:
    with reading(path):
        return model.model_validate_json(read_sealed(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
