"""Errors while a stage runs: one line for the user, and the traceback in the stage's log."""

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
from hfpipe.distributed.world import get_rank
from hfpipe.errors import (
    IMPORT_NEEDS_MEMORY,
    DataError,
    HfpipeError,
    RecipeError,
    SettingError,
    StageError,
    is_import_memory_error,
    is_out_of_memory,
)
from hfpipe.interruption import Interrupted
from hfpipe.runner.redaction import redact
from hfpipe.runner.supervision.member import describe_place

if TYPE_CHECKING:
    from hfpipe.recipe import Recipe


@contextmanager
def translate_errors(ctx: RunContext) -> Iterator[None]:
    """Turn any error into one line with a fix and the name of the stage. Raises HfpipeError."""
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
    except Exception as error:  # libraries and user code may raise any exception
        raise StageError(f"{stage}{_describe(error, ctx)}") from error


def _describe(error: Exception, ctx: RunContext) -> str:
    """Return the cause and the fix of an error of a library, the system or user code."""
    if is_import_memory_error(error):
        return IMPORT_NEEDS_MEMORY
    if is_out_of_memory(error):
        return (
            "out of memory; halve per_device_train_batch_size and double gradient_accumulation_steps, "
            "or lower batch_size to evaluate; the results do not change"
            + ("; or raise the limit that `ulimit -v` prints" if _has_memory_limit() else "")
        )
    if (refused := find_system_error(error)) is not None:
        fix = "free disk space" if refused.errno in (errno.ENOSPC, errno.EDQUOT) else "fix the cause"
        where = refused.filename or ctx.folder
        return f"{where}: {refused.strerror}; {fix} and run again; finished stages are kept"
    # Any other error of a library or user code; the log has the traceback.
    cause = " ".join(str(error).split())[:500]
    return f"{type(error).__name__}: {cause}; the trace is in {ctx.folder / 'stage.log'}"


def _has_memory_limit() -> bool:
    """Return whether the memory of this process is limited, as with `ulimit -v`."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


@contextmanager
def locate_errors(stage: str, place: str = "", process: int | None = None) -> Iterator[None]:
    """Prefix errors with the position of the stage in the recipe, and the process that failed.

    Raises HfpipeError of the same class.
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
    """Add line and column to the error of a setting that does not fit the data. Raises RecipeError."""
    try:
        yield
    except SettingError as error:
        problem = replace(error.problem, path=("stages", stage, *error.problem.path))
        raise RecipeError([recipe.document.locate_problem(problem)]) from error


def find_system_error(error: Exception) -> OSError | None:
    """Return the system error behind an error, if there is one; torch and Rust libraries state it as text."""
    if isinstance(error, OSError):
        return error if error.strerror else None
    if "inline_container" in str(error):  # the only hint of a full disk in errors of torch.save
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


@contextmanager
def log_stage(ctx: RunContext, until: str = "done") -> Iterator[None]:
    """Write messages of hfpipe and the libraries, and the traceback of a failure, to the stage's log file.

    `until` is the state of the stage at the end.
    """
    handler = _Log(ctx.folder / "stage.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [{get_rank()}] %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    logger = logging.getLogger("hfpipe")
    before = logger.level
    root.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.info("stage %s begins in process %d", ctx.name, os.getpid())
    try:
        yield
        logger.info("stage %s is %s", ctx.name, until)
    except BaseException:  # the log has the trace of every ending
        logger.info("stopped", exc_info=True)
        raise
    finally:
        root.removeHandler(handler)
        logger.setLevel(before)
        with suppress(OSError):
            handler.close()


class _Log(logging.FileHandler):
    """A log file without passwords; errors in writing it are ignored."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        return
