"""The folder of a crash: its files, and atomic writing.

    crash.json         what happened, and the examples of the step
    stage.json         the stage's settings, as its own folder holds them
    examples.arrow     the encoded examples, in the order of `crash.json`
    random.safetensors the random states at the beginning of the step
    weights.safetensors, model/, tokenizer/   the model before the step, its config and its tokenizer
    stage.log          the last lines of the log

It is in `crashes/` next to the stages' folders, because the scratch folder of a stage is removed at its end.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from hfpipe.errors import Problem, RecipeError, StageError, get_first_line
from hfpipe.report import DataFacts, Record
from hfpipe.store.files import sync_folder
from hfpipe.store.manifest import record_files
from hfpipe.store.sealed import read_sealed, write_sealed

CRASHES = "crashes"
"""Folder next to those of the stages."""
RECORD, STAGE, EXAMPLES, LOG = "crash.json", "stage.json", "examples.arrow", "stage.log"
RANDOM, WEIGHTS, MODEL, TOKENIZER = "random.safetensors", "weights.safetensors", "model", "tokenizer"


class CrashExample(Record):
    """An example of the step."""

    epoch: int
    index: int
    """Position among the encoded examples."""
    row: int | None
    """Position in the split of the data set; None where documents are packed."""
    place: str
    """File and line of that row, and its id; the number of a packed example."""
    text: str
    """The encoded example as text."""


class CrashLoss(Record):
    """The weights of a weighted loss."""

    class_weights: list[float] | None
    focal: float
    row_weights: list[float] | None
    """Weight of each example of the step."""


class CrashDistillation(Record):
    """Outputs of the teachers for the examples of the step."""

    soft_targets: list[list[float]]
    """Probabilities at the temperature, by target and class; the targets of an example follow one another."""
    temperature: float
    weight: float
    counts: list[int] | None = None
    """Number of targets of each example; None where each has one."""


class CrashTeachers(Record):
    """The teachers of a language model, which are loaded again."""

    teachers: list[str]
    """Folders or Hub ids."""
    temperature: float
    weight: float


class Crash(Record):
    """A step that could not be computed."""

    what: str
    """`loss` or `gradient norm`."""
    value: str
    """`nan`, `inf` or `-inf`."""
    stage: str
    step: int
    """Number of the step, counted from 1."""
    weights_after: int | None
    """Number of steps of the weights: `step` - 1, or fewer for weights of a checkpoint. None without weights:
    if a model is split over processes, no process has all of them.
    """
    process: int
    """Number of the process whose examples these are."""
    processes: int
    micro: int
    """Examples of a micro-batch."""
    accumulation: int
    """Micro-batches of the step in this process."""
    targets: float
    """Number by which the summed loss was divided: targets of the step over the processes that average it."""
    seed: int
    bf16: bool
    device: str
    facts: DataFacts
    """The task's facts about the data."""
    attention: str | None
    """Attention implementation that the recipe names."""
    modules_to_save: list[str] | None
    """Modules that are trained in full in addition to an adapter; None without an adapter."""
    loss: CrashLoss | CrashDistillation | CrashTeachers | None = None
    """None for the loss of the task."""
    examples: list[CrashExample]
    """Examples in the order of the micro-batches."""
    versions: dict[str, str]
    time: float
    """When it was written, in seconds since 1970."""


def write_crash(folder: Path, crash: Crash, process: int, fill: Callable[[Path], None], since: float) -> None:
    """Write a crash; `fill` writes the other files.

    A folder of an earlier training is replaced; a folder that another process of this training has written is
    kept. The training began at `since`. Raises OSError when the disk is full.
    """
    part = folder.with_name(f".{folder.name}.{process}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        fill(part)
        write_sealed(part / RECORD, crash.model_dump_json(indent=1))
        record_files(part)
        locks = folder.parent.with_name(".locks")
        locks.mkdir(exist_ok=True)
        with FileLock(locks / f"crash-{folder.name}.lock"):
            if not _is_of_this_training(folder, since):
                old = folder.with_name(f".{folder.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                if folder.exists():
                    folder.rename(old)
                part.rename(folder)
                sync_folder(folder.parent)
                shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_crash(folder: Path) -> Crash:
    """Return the crash that `write_crash` wrote.

    Raises RecipeError when the folder contains no crash, StageError when its record is damaged.
    """
    try:
        return Crash.model_validate_json(read_sealed(folder / RECORD))
    except (FileNotFoundError, NotADirectoryError):
        message = f"{folder}: contains no crash; name the folder from the error of the training"
        raise RecipeError([Problem(message)]) from None
    except ValidationError:
        raise StageError(f"{folder / RECORD}: is of another version of hfpipe; run the stage again") from None
    except (OSError, ValueError) as error:
        raise StageError(
            f"{folder / RECORD}: cannot be read ({get_first_line(error)}); run the stage again"
        ) from None


def _is_of_this_training(folder: Path, since: float) -> bool:
    try:
        return read_crash(folder).time >= since
    except (RecipeError, StageError):
        return False
