"""Names and folders of the trainings that one stage of a recipe expands to."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from hfpipe.contract import RunContext
from hfpipe.errors import StageError
from hfpipe.references.places import ModelPlace, Place
from hfpipe.store.identity import KEY_LENGTH
from hfpipe.store.stage_names import MARK, get_plain_name
from hfpipe.store.store import is_done, read_report, read_stage

REPEATED = "repeats"
"""Kind of the summarizing stage in its report."""
OUT_OF_FOLD = "out-of-fold"
"""Split of an evaluate stage: the train split, each row predicted by a model not trained on it."""
SHARED = ".shared"
"""Folder of a run for data shared by the trainings of a stage, until all are done."""

UNREAD = ("training", "early_stopping", "adapter", "licence")
"""Settings of a training stage that do not affect its encoded data."""


def get_owner(name: str) -> str:
    """Return the recipe stage of a training."""
    return name.partition(MARK)[0]


def is_member(name: str) -> bool:
    """Return whether a stage is a training from the expansion of a recipe stage."""
    return MARK in get_plain_name(name)


def find_members(folder: Path) -> dict[Place, Path]:
    """Return the trainings that a folder summarizes, with their folders; empty for any other folder."""
    if not (folder / "stage.json").is_file() or not is_done(folder) or read_report(folder).kind != REPEATED:
        return {}
    file = read_stage(folder)
    places: list[Place] = [ModelPlace(place) for place in file.identity.settings["members"].values()]
    return {place: folder.parent / file.folders[str(place.stage)] for place in places}


def get_encoded_folder(ctx: RunContext, *, cut_from_all: bool) -> Path:
    """Return the folder of the encoded data of a training; the trainings of a stage share equal data.

    Encoded data depend on all settings except those of `UNREAD`, and not on the seed. They depend on the fold
    only if examples are cut from all rows together.
    """
    if not is_member(ctx.name):
        return ctx.work / "encoded"
    return _get_shared_folder(ctx.name, ctx.folder, cut_from_all=cut_from_all)


def _get_shared_folder(name: str, folder: Path, *, cut_from_all: bool) -> Path:
    made = read_stage(folder).identity
    packed = bool(made.settings.get("fold")) and cut_from_all
    unread = UNREAD if packed else (*UNREAD, "folds", "fold")
    settings = {name: value for name, value in made.settings.items() if name not in unread}
    decisive = {**made.model_dump(include={"task_version", "files", "inputs"}), "settings": settings}
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]
    return folder.parent / SHARED / f"{get_owner(name)}-{digest}"


def remove_encoded(run: Path, owner: str) -> None:
    """Remove the encoded data of the trainings of a recipe stage, except those of unfinished trainings.

    These may belong to another copy of a matrix, or to another run, and be running now.
    """
    used = set()
    for file in run.glob("*/stage.json"):
        with suppress(StageError):  # a damaged folder is reported by the stage that needs it
            name = read_stage(file.parent).name
            if is_member(name) and get_owner(name) == owner and not is_done(file.parent):
                used |= {_get_shared_folder(name, file.parent, cut_from_all=cut) for cut in (True, False)}
    for folder in (run / SHARED).glob(f"{owner}-{'[0-9a-f]' * KEY_LENGTH}"):
        if folder not in used:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def hold_encoded(ctx: RunContext, folder: Path) -> Iterator[None]:
    """Lock a folder of encoded data, which another training of the stage may be writing."""
    if folder.parent.name != SHARED:
        yield
        return
    lock = ctx.folder.parent / ".locks" / f"{folder.name}.encoded.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def get_data_split(split: str) -> str:
    """Return the split of the data set that a split of an evaluate stage is made from."""
    return "train" if split == OUT_OF_FOLD else split
