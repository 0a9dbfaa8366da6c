"""What can go wrong, in words for the person who wrote the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHOWN = 120
"""Characters of a line that are shown round a fault; JSON may be a single line."""


@dataclass(frozen=True)
class Spot:
    """A point in a recipe file, for messages such as `recipe.yaml:31:7`."""

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
    """One fault: where it stands, what is wrong and how to mend it."""

    message: str
    path: tuple[str | int, ...] = ()
    """The keys that lead to it inside the recipe, as `("stages", "topics", "training")`."""
    spot: Spot | None = None

    def __str__(self) -> str:
        if self.spot is None:
            return self.message
        head = f"{self.spot}: {self.message}"
        if not self.spot.source.strip():
            return head
        start = max(0, self.spot.column - SHOWN // 2) if len(self.spot.source) > SHOWN else 0
        line = self.spot.source[start : start + SHOWN]
        return f"{head}\n    {line}\n    {' ' * (self.spot.column - 1 - start)}^"


class HfpipeError(Exception):
    """A failure whose text is all that the user needs: place, cause and mend on one line."""

    exit_code = 1


class RecipeError(HfpipeError):
    """The recipe or the arguments are wrong; carries every problem found in one pass."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class DataError(HfpipeError):
    """The data cannot be used as the recipe says; names the file and the line, row or byte."""


class StageError(HfpipeError):
    """A stage could not go on; names the stage, the cause and what can be done."""
