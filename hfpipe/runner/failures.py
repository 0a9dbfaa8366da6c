"""What goes wrong while a stage runs: one line for the person, and the whole trace in the stage's log."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from hfpipe.contract import RunContext
from hfpipe.distributed.world import rank
from hfpipe.errors import (
    IMPORT_NEEDS_MEMORY,
    DataError,
    HfpipeError,
    RecipeError,
    SettingError,
    StageError,
    no_memory_to_import,
    out_of_memory,
)
from hfpipe.interruption import Interrupted
from hfpipe.runner.redaction import redact
from hfpipe.runner.supervision.member import describe_place

if TYPE_CHECKING:
    from hfpipe.recipe import Recipe


@contextmanager
def translate_errors(ctx: RunContext) -> Iterator[None]:
    """Turn what the machine refuses into one line with its fix, and name the stage. Raises HfpipeError."""
    stage = f"stage {ctx.name}: "
    try:
        yield
    except (DataError, StageError) as error:
        if stage in str(error):
            raise
        raise type(error)(f"{stage}{error}") from error
    except Interrupted as error:
        raise Interrupted(error.number, f"{stage}{str(error).removeprefix(stage)}") from error
    except HfpipeError:
        raise
    except Exception as error:
        raise StageError(f"{stage}{_describe(error, ctx)}") from error


def _describe(error: Exception, ctx: RunContext) -> str:
    """Return the cause and the fix of what a library, the system or user code raised."""
    if no_memory_to_import(error):
        return IMPORT_NEEDS_MEMORY
    if out_of_memory(error):
        return (
            "out of memory; halve per_device_train_batch_size and double gradient_accumulation_steps, "
            "or lower batch_size to evaluate: no result changes"
            + ("; or raise the limit that `ulimit -v` prints" if _has_memory_limit() else "")
        )
    if (refused := find_system_error(error)) is not None:
        fix = "make room" if refused.errno in (errno.ENOSPC, errno.EDQUOT) else "fix that"
        where = refused.filename or ctx.folder
        return f"{where}: {refused.strerror}; {fix} and run again, what is finished stays"
    # The one guard for whatever a library or user code raises; the log has the trace.
    cause = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {cause}; the trace is in {ctx.folder / 'stage.log'}"


def _has_memory_limit() -> bool:
    """Tell whether this process may use only a part of the memory, as under `ulimit -v`."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


@contextmanager
def locate_errors(stage: str, place: str = "", process: int | None = None) -> Iterator[None]:
    """Put in front of an error where its stage is in the recipe, and which process failed.

    Raises HfpipeError of the same kind.
    """
    try:
        yield
    except (DataError, StageError) as error:
        who = f"process {process}: " if process is not None else ""
        text = str(error).removeprefix(f"stage {stage}: ")
        raise type(error)(f"{describe_place(stage, place)}{who}{text}") from error.__cause__
    except Interrupted as error:
        text = str(error).removeprefix(f"stage {stage}: ")
        raise Interrupted(error.number, describe_place(stage, place) + text) from error.__cause__


@contextmanager
def place_setting_errors(recipe: Recipe, stage: str) -> Iterator[None]:
    """Give a setting that does not fit the data its line and column. Raises RecipeError."""
    try:
        yield
    except SettingError as error:
        problem = replace(error.problem, path=("stages", stage, *error.problem.path))
        raise RecipeError([recipe.document.place(problem)]) from error


def find_system_error(error: Exception) -> OSError | None:
    """Return what the operating system said, if it did; torch and libraries in Rust put it into words."""
    if isinstance(error, OSError):
        return error if error.strerror else None
    if "inline_container" in str(error):  # all that torch.save says of a disk that is full
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


@contextmanager
def log_stage(ctx: RunContext, until: str = "done") -> Iterator[None]:
    """Keep what hfpipe and the libraries say, and the trace of a failure, in the stage's log file.

    `until` is what the stage is at the end.
    """
    handler = _Log(ctx.folder / "stage.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [{rank()}] %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    logger = logging.getLogger("hfpipe")
    before = logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.info("stage %s begins in process %d", ctx.name, os.getpid())
    try:
        yield
        logger.info("stage %s is %s", ctx.name, until)
    except BaseException:
        logger.info("stopped", exc_info=True)
        raise
    finally:
        root.removeHandler(handler)
        logger.setLevel(before)
        with suppress(OSError):
            handler.close()


class _Log(logging.FileHandler):
    """A log without passwords, which stops nothing when it cannot be written, and prints no trace of it."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        return
