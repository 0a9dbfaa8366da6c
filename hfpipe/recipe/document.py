"""A parsed recipe: its data, the position of each part, and its problems."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, Spot
from hfpipe.recipe.messages import Keys, fold_lines
from hfpipe.store.stage_names import MARK


class KeyProblem(Problem):
    """A problem with a key itself, not with its value."""


@dataclass(frozen=True)
class Copy:
    """A stage that a matrix makes from one that is written in the file."""

    owner: str
    """The stage in the file."""
    combination: dict[str, Any]
    """Axis of the matrix → its value, for the axes on which the stage depends."""
    settings: dict[str, Any]
    """Setting, such as `wiki.limit` → its value, for this stage and the upstream stages it depends on."""
    varied: dict[Keys, Keys]
    """Path of a setting within the stage → where its value is written in the file."""
    names: dict[str, str]
    """Name of this copy, and of each copy that it reads → the stage's name in the file."""


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
    copies: dict[str, Copy] = field(default_factory=dict)
    """Stages that the matrix makes, by name."""
    refused: set[Keys] = field(default_factory=set)
    """Paths of invalid values, replaced by None; no further problems are reported for them."""

    def make_spot(self, line: int, column: int) -> Spot:
        """Return the position of a line and column that are counted from 0."""
        source = self.lines[line] if line < len(self.lines) else ""
        return Spot(self.file, line + 1, column + 1, source)

    def find_spot(self, path: Keys, *, key: bool = False) -> Spot | None:
        """Return the position of a key or its value, or that of the nearest existing ancestor.

        If the value begins on the line of its key, its position is returned, since users look there.
        """
        path = self.find_written(path)
        for length in range(len(path), -1, -1):
            name, value = self.keys.get(path[:length]), self.values.get(path[:length])
            if name is not None and (key or value is None or value.line != name.line):
                return name
            if value is not None:
                return value
            key = True  # if something is missing, point to the name of the mapping
        return None

    def find_written(self, path: Keys) -> Keys:
        """Return the path in the file: `stages.topics` for its training `topics@2`.

        For a value that the matrix sets, this is its path in the matrix.
        """
        if path[:1] != ("stages",) or len(path) < 2 or path[:2] in self.keys:
            return path
        copy = self.find_copy(path)
        varied = copy.varied if copy is not None else {}
        for length in range(len(path), 2, -1):
            if path[2:length] in varied:
                return (*varied[path[2:length]], *path[length:])
        owner = copy.owner if copy is not None else str(path[1]).partition(MARK)[0]
        return ("stages", owner, *path[2:]) if ("stages", owner) in self.keys else path

    def find_copy(self, path: Keys) -> Copy | None:
        """Return the copy that a path leads into, if the matrix made that stage."""
        name = str(path[1]) if path[:1] == ("stages",) and len(path) > 1 else ""
        return self.copies.get(name) or self.copies.get(name.rpartition(MARK)[0])

    def locate_problem(self, problem: Problem) -> Problem:
        """Add to a problem its position, or the `--set` that caused it; stages are named as in the file."""
        if problem.spot is not None:
            return problem
        copy, message = self.find_copy(problem.path), problem.message
        for made, name in sorted(copy.names.items(), reverse=True) if copy is not None else ():
            message = message.replace(made, name)
        problem = replace(problem, message=message, path=self.find_written(problem.path))
        for path, text in self.overrides.items():
            if problem.path[: len(path)] == path:
                return replace(problem, message=f"--set {fold_lines(text)}: {problem.message}")
        return replace(problem, spot=self.find_spot(problem.path, key=isinstance(problem, KeyProblem)))
