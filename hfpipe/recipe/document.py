"""A parsed recipe: its data, the position of each part, and its problems."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, Spot
from hfpipe.recipe.messages import Keys, fold_lines


class KeyProblem(Problem):
    """A problem with a key itself, not with its value."""


@dataclass
class Document:
    """A parsed recipe: its data, and the position of each part in the file."""

    file: Path
    lines: list[str]
    data: Any = None
    keys: dict[Keys, Spot] = field(default_factory=dict)
    """Path → position of the key; list items have none."""
    values: dict[Keys, Spot] = field(default_factory=dict)
    """Path → position of the value; for an alias, the position of its anchor."""
    overrides: dict[Keys, str] = field(default_factory=dict)
    """Path → the `stage.key=value` that set it."""
    problems: list[Problem] = field(default_factory=list)
    refused: set[Keys] = field(default_factory=set)
    """Paths of unreadable values, replaced by None; no further problems are reported for them."""

    def here(self, line: int, column: int) -> Spot:
        """Return the position of a line and column that are counted from 0."""
        source = self.lines[line] if line < len(self.lines) else ""
        return Spot(self.file, line + 1, column + 1, source)

    def spot(self, path: Keys, *, key: bool = False) -> Spot | None:
        """Return the position of a key or its value, or that of the nearest existing ancestor.

        If the value begins on the line of its key, its position is returned, since users look there.
        """
        path = self.written(path)
        for length in range(len(path), -1, -1):
            name, value = self.keys.get(path[:length]), self.values.get(path[:length])
            if name is not None and (key or value is None or value.line != name.line):
                return name
            if value is not None:
                return value
            key = True  # if something is missing, point to the name of the mapping
        return None

    def written(self, path: Keys) -> Keys:
        """Return the path of what is written in the file: `stages.topics` for a training `topics@2` of it."""
        if path[:1] != ("stages",) or len(path) < 2 or path[:2] in self.keys:
            return path
        owner = str(path[1]).partition("@")[0]
        return ("stages", owner, *path[2:]) if ("stages", owner) in self.keys else path

    def place(self, problem: Problem) -> Problem:
        """Add to a problem its position, or the `--set` that caused it."""
        if problem.spot is not None:
            return problem
        problem = replace(problem, path=self.written(problem.path))
        for path, text in self.overrides.items():
            if problem.path[: len(path)] == path:
                return replace(problem, message=f"--set {fold_lines(text)}: {problem.message}")
        return replace(problem, spot=self.spot(problem.path, key=isinstance(problem, KeyProblem)))
