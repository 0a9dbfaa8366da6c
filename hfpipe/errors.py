"""Exceptions with messages for the author of a recipe, and texts that these share."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SHOWN = 120
"""Maximum number of characters of a source line that are shown; JSON may be a single line."""
LONGEST = 2000
"""Maximum number of characters of a message, which may quote a long key or value."""
_NO_MEMORY_TO_IMPORT = ("failed to map segment from shared object", "can't start new thread")
IMPORT_NEEDS_MEMORY = (
    "out of memory while libraries were loaded: this process needs a higher memory limit; raise the one that "
    "`ulimit -v` prints, or that of the container or job, and run again"
)
MOST = 50
"""Maximum number of problems that are shown."""


@dataclass(frozen=True)
class Spot:
    """A position in a recipe file, for messages such as `recipe.yaml:31:7`."""

    file: Path
    line: int
    """Counted from 1."""
    column: int
    """Counted from 1."""
    source: str = ""
    """The line itself, shown above a caret."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Problem:
    """One problem: its position, its cause and how to fix it."""

    message: str
    path: tuple[str | int, ...] = ()
    """Path of keys in the recipe, such as `("stages", "topics", "training")`."""
    spot: Spot | None = None
    count: int = 1
    """Number of problems that it summarizes; many of one kind are merged into one."""

    def __str__(self) -> str:
        message = self.message if len(self.message) <= LONGEST else self.message[: LONGEST - 1] + "…"
        if self.spot is None:
            return message
        head = f"{self.spot}: {message}"
        if not self.spot.source.strip():
            return head
        start = max(0, self.spot.column - SHOWN // 2) if len(self.spot.source) > SHOWN else 0
        line = self.spot.source[start : start + SHOWN]
        return f"{head}\n    {line}\n    {' ' * (self.spot.column - 1 - start)}^"


class HfpipeError(Exception):
    """Base of errors for users; the text has position, cause and fix on one line."""

    exit_code = 1


class RecipeError(HfpipeError):
    """The recipe or the arguments are wrong; contains every problem found in one pass."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        lines = [str(problem) for problem in problems[:MOST]]
        if rest := sum(problem.count for problem in problems[MOST:]):
            lines.append(f"… and {rest:,} more; fix these first")
        super().__init__("\n".join(lines))
        self.problems = problems


class DataError(HfpipeError):
    """The data cannot be used with these settings; the text names the file and the line, row or byte."""


class StageError(HfpipeError):
    """A stage failed; the text has the stage, the cause and the fix."""


class SettingError(HfpipeError):
    """A setting does not fit the data, found only when a stage reads them; the runner adds the line."""

    exit_code = 2

    def __init__(self, problem: Problem) -> None:
        """`problem` has the path of the setting inside the stage."""
        super().__init__(problem.message)
        self.problem = problem


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out; torch has a special error for devices, but none for the CPU."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or "can't allocate memory" in str(error)


def is_import_memory_error(error: BaseException | None) -> bool:
    """Return whether memory ran out while a library was imported, as with a small `ulimit -v`.

    The system then cannot map shared objects or start threads; NumPy reports this in a page of advice.
    """
    while error is not None:
        loading = isinstance(error, ImportError | OSError | RuntimeError)
        if loading and any(words in str(error) for words in _NO_MEMORY_TO_IMPORT):
            return True
        if isinstance(error, MemoryError) and _is_from_import(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_from_import(error: BaseException) -> bool:
    frames = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(name.startswith("<frozen importlib") for name in frames)


def join_words(words: Sequence[str], last: str = "and") -> str:
    """Join words as `a, b and c`."""
    *head, tail = words
    return f"{', '.join(head)} {last} {tail}" if head else tail


def format_one_line(error: BaseException) -> str:
    """Return the text of an error on one line, without the list of hundreds of classes of an auto class."""
    text = " ".join(str(error).split()).partition(" Model type should be one of")[0]
    return text or type(error).__name__


def get_first_line(error: BaseException) -> str:
    """Return the first line of the text of an error, or its type if there is no text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def format_typed_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its text, if any: `ValueError: no such column`."""
    name, line = type(error).__name__, get_first_line(error)
    return name if line == name else f"{name}: {line}"
