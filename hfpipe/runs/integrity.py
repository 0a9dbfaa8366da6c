"""Checks that the files of runs are as they were written: stages, checkpoints and encoded data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hfpipe import number_format, runner
from hfpipe import recipe as recipes
from hfpipe.encoding.shards import Shards
from hfpipe.errors import Problem, RecipeError, StageError
from hfpipe.runs.lookup import check_exists
from hfpipe.stages import KINDS
from hfpipe.stages.repeats.members import SHARED, get_owner, is_member
from hfpipe.store.identity import KEY_LENGTH
from hfpipe.store.manifest import find_damage
from hfpipe.store.store import describe_loss, is_done, is_stage_folder, read_report, read_stage
from hfpipe.tasks import TASKS
from hfpipe.training.checkpoints import UNFINISHED, find_fault, list_checkpoints


@dataclass(frozen=True)
class StageIntegrity:
    """Result of checking the folder of one stage."""

    folder: Path
    summary: str
    damage: tuple[str, ...] = ()
    """A line for each changed or missing file, with advice."""


def check_integrity(target: Path, runs: Path) -> list[StageIntegrity]:
    """Read every file of a recipe's stages, a run's folder or a stage's folder; compare it with its digest.

    All folders of a run are read, including those of earlier settings and unfinished ones. Nothing is
    changed, and no cached digest is used. Raises RecipeError when there is no stage.
    """
    folders, shared = sorted(_find_folders(target, runs)), sorted(_find_shared_folders(target, runs))
    if not folders and not shared:
        raise RecipeError([Problem(f"{target}: contains no stage; name a recipe or a folder, as runs/demo")])
    found = [_check_finished(folder) if is_done(folder) else _check_unfinished(folder) for folder in folders]
    return [*found, *map(_check_shared, shared)]


def _find_folders(target: Path, runs: Path) -> Iterator[Path]:
    if target.is_dir():
        within = (target, *target.iterdir())
        yield from (path for path in within if (path / "stage.json").is_file() or is_done(path))
        return
    check_exists(target)
    recipe = recipes.load_recipe(target, kinds=KINDS, tasks=TASKS)
    steps = runner.plan_recipe(recipe, runs)
    yield from (step.folder for step in steps if (step.folder / "stage.json").is_file() or step.done)


def _find_shared_folders(target: Path, runs: Path) -> Iterator[Path]:
    """Yield the folders of encoded data that trainings of one stage share until all are done."""
    if not target.is_dir():
        recipe = recipes.load_recipe(target, kinds=KINDS, tasks=TASKS)
        run = runs / recipe.name
        owners = {get_owner(name) for name in recipe.stages}
    elif (target / "stage.json").is_file():
        run, name = target.parent, target.name[: -KEY_LENGTH - 1]
        owners = {get_owner(name)} if is_member(name) else set()
    else:
        yield from (path for path in (target / SHARED).glob("*") if path.is_dir())
        return
    for path in (run / SHARED).glob("*"):
        if path.is_dir() and path.name[: -KEY_LENGTH - 1] in owners:
            yield path


def _check_shared(folder: Path) -> StageIntegrity:
    damage = tuple(_find_encoded_damage(folder))
    files = [path for path in folder.iterdir() if path.is_file()]
    size = number_format.format_bytes(sum(path.stat().st_size for path in files))
    state = "damaged" if damage else f"whole, {len(files):,} files, {size}"
    return StageIntegrity(folder, f"encoded data that trainings share, {state}", damage)


def _check_finished(folder: Path) -> StageIntegrity:
    try:
        files = read_report(folder).files
        if not files:
            return StageIntegrity(folder, "written by an earlier version, without digests")
        damage = [describe_loss(folder, name, why) for name, why in find_damage(folder, files)]
        if not damage and is_stage_folder(folder.name):  # only intact files are parsed
            key = read_stage(folder).identity.key
            if not folder.name.endswith(f"-{key}"):
                damage.append(describe_loss(folder, "stage.json", "belongs to another stage"))
    except StageError as error:
        return StageIntegrity(folder, "damaged", (str(error),))
    size = number_format.format_bytes(sum(digest.size for digest in files.values()))
    whole = f"whole, {len(files):,} files, {size}"
    return StageIntegrity(folder, "damaged" if damage else whole, tuple(damage))


def _check_unfinished(folder: Path) -> StageIntegrity:
    """Check the files that a resumed run would use; it recreates damaged ones."""
    work, found = folder / ".work", []
    damage = []
    for checkpoint in list_checkpoints(work):
        reason = find_fault(checkpoint)
        found.append(checkpoint.name if reason is None else f"{checkpoint.name} {reason}")
        if reason not in (None, UNFINISHED):
            damage.append(f"{checkpoint}: {reason}; the run resumes from an earlier one")
    damage += _find_encoded_damage(work / "encoded")
    return StageIntegrity(folder, ", ".join(["in progress", *found]), tuple(damage))


def _find_encoded_damage(folder: Path) -> Iterator[str]:
    """Yield a line for each damaged file of encoded data, with its consequence."""
    files = [path for kind in ("arrow", "json") for path in folder.glob(f"*.{kind}")]
    for stem in sorted({re.sub(r"-[0-9]{5,}$", "", path.stem) for path in files}):
        yield from (
            f"{line}; the run encodes it again" for line in Shards(folder / f"{stem}.arrow").find_damage()
        )
