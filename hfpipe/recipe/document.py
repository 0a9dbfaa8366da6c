"""A parsed recipe: its data, where each part stands, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, Spot
from hfpipe.recipe.messages import Keys, fold_lines


class KeyProblem(Problem):
    """A problem with a key itself, and not with its value."""


@dataclass
class Document:
    """A parsed recipe: its data, and where each part stands."""

    file: Path
    lines: list[str]
    data: Any = None
    keys: dict[Keys, Spot] = field(default_factory=dict)
    """Path → where the key stands; list items have none."""
    values: dict[Keys, Spot] = field(default_factory=dict)
    """Path → where the value stands; behind an alias, where its anchor does."""
    overrides: dict[Keys, str] = field(default_factory=dict)
    """Path → the `stage.key=value` that set it."""
    problems: list[Problem] = field(default_factory=list)
    refused: set[Keys] = field(default_factory=set)
    """Paths of values that cannot be read, in whose place None stands; no other fault of them is reported."""

    def here(self, line: int, column: int) -> Spot:
        """Return the spot of a line and column counted from 0."""
        source = self.lines[line] if line < len(self.lines) else ""
        return Spot(self.file, line + 1, column + 1, source)

    def spot(self, path: Keys, *, key: bool = False) -> Spot | None:
        """Return where a key or its value stands, or the nearest ancestor's place.

        The value's place is given when it begins on the key's line, as a person looks there.
        """
        for length in range(len(path), -1, -1):
            name, value = self.keys.get(path[:length]), self.values.get(path[:length])
            if name is not None and (key or value is None or value.line != name.line):
                return name
            if value is not None:
                return value
            key = True  # whatever is missing, it is the mapping's name that leads there
        return None

    def place(self, problem: Problem) -> Problem:
        """Give a problem its spot, or the `--set` that brought it in."""
        if problem.spot is not None:
            return problem
        for path, text in self.overrides.items():
            if problem.path[: len(path)] == path:
                return replace(problem, message=f"--set {fold_lines(text)}: {problem.message}")
        return replace(problem, spot=self.spot(problem.path, key=isinstance(problem, KeyProblem)))
