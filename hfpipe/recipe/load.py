"""Turns a recipe file into checked stages, or reports all its problems."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hfpipe.contract import Stage
from hfpipe.errors import DataError, Problem, RecipeError, Spot
from hfpipe.recipe import aliases, model, references, source
from hfpipe.recipe.document import Copy, Document, KeyProblem
from hfpipe.recipe.matrix.copies import expand_matrix
from hfpipe.recipe.messages import Keys, describe_value, format_keys, join_names
from hfpipe.recipe.overrides import apply_overrides
from hfpipe.recipe.settings import find_mistakes, find_unknown_keys, make_missing_key
from hfpipe.recipe.training import arguments
from hfpipe.references.places import Code
from hfpipe.references.user_code import describe_failure
from hfpipe.report import DataFacts
from hfpipe.task import TaskConfig
from hfpipe.user_tasks import load_task_class

_KEYS = ("name", "seed", "matrix", "stages")
_SEED = 42  # the Trainer's own default
_LONGEST = 100
"""Maximum bytes in the name of a run or stage; folder names are limited to 255, and a suffix is added."""
_ENOUGH = 500
"""Number of problems after which no further stage is read, since suggesting a name for each is slow."""
_MOST_STAGES = 500
_PASSED_ON = {"training": arguments.find_training_problems, "model": model.find_model_problems}
"""Settings that are passed to Transformers and therefore checked against the installed version."""


@dataclass(frozen=True)
class Recipe:
    """A recipe in which all keys are known and the stages are consistent."""

    path: Path
    name: str
    seed: int
    stages: dict[str, Stage]
    """In execution order."""
    document: Document = field(repr=False, compare=False)

    @property
    def base(self) -> Path:
        """Folder of the recipe; its relative paths are resolved against it."""
        return self.path.parent

    def find_spot(self, path: Keys) -> Spot | None:
        """Return the position of a key or value in the file, or that of its nearest existing ancestor."""
        return self.document.find_spot(path)


def load_recipe(
    path: Path,
    *,
    kinds: Mapping[str, type[Stage]],
    tasks: Mapping[str, type[TaskConfig]],
    overrides: Sequence[str] = (),
    facts: Mapping[str, DataFacts] | None = None,
) -> Recipe:
    """Read and check a recipe; `overrides` are `stage.key=value`, `facts` describe finished data sets.

    Raises RecipeError with every problem found, in the order of the file.
    """
    document = source.read_yaml(path)
    apply_overrides(document, overrides)
    expand_matrix(document)
    reader = _Reader(document, kinds, tasks)
    name, seed, stages = reader.read()
    stages, failures = _resolve_stages(_expand_repeats(stages, document.copies), path.parent)
    recipe = Recipe(path, name, seed, stages, document)
    problems = [*document.problems, *reader.problems]
    problems += [
        document.locate_problem(problem)
        for problem in references.find_reference_problems(document, stages, kinds, recipe.base)
    ]
    found = [*map(document.locate_problem, failures), *check_facts(recipe, facts or {})]
    problems = list(dict.fromkeys([*problems, *found]))  # copies of a stage have the same problems
    problems = [p for p in problems if p in document.problems or p.path not in document.refused]
    if problems:
        raise RecipeError(sorted(problems, key=_sort_key))
    return recipe


def _expand_repeats(stages: Mapping[str, Stage], copies: Mapping[str, Copy]) -> dict[str, Stage]:
    """Return the stages that those of the recipe expand to, such as one training per seed.

    The copies that a matrix makes of a stage are followed by a table of their scores, if they have any.
    """
    found: dict[str, Stage] = {}
    last = {copy.owner: name for name, copy in copies.items()}
    for name, stage in stages.items():
        found |= stage.expand(name, found)
        owner = copies[name].owner if name in copies else ""
        if name == last.get(owner):
            members = {other: copy for other, copy in copies.items() if copy.owner == owner}
            settings = {other: copy.settings for other, copy in members.items()}
            table = stage.make_table({other: copy.combination for other, copy in members.items()}, settings)
            found |= {owner: table} if table is not None else {}
    return found


def check_facts(recipe: Recipe, facts: Mapping[str, DataFacts]) -> list[Problem]:
    """Return the problems between stages, given the facts about finished data sets."""
    problems: list[Problem] = []
    above: dict[str, Stage] = {}
    for name, stage in recipe.stages.items():
        with _report_user_code(name, recipe.stages, recipe.base, problems):
            found = stage.check(above, facts, recipe.base)
            problems.extend(replace(problem, path=("stages", name, *problem.path)) for problem in found)
        above[name] = stage
    # The trainings of one stage have the same problems.
    return sorted(dict.fromkeys(map(recipe.document.locate_problem, problems)), key=_sort_key)


def _resolve_stages(stages: Mapping[str, Stage], base: Path) -> tuple[dict[str, Stage], list[Problem]]:
    """Return the stages resolved against their upstream stages, and the problems raised by user code."""
    above: dict[str, Stage] = {}
    problems: list[Problem] = []
    for name, stage in stages.items():
        above[name] = stage
        with _report_user_code(name, stages, base, problems):
            above[name] = stage.resolve(above)
    return above, problems


@contextmanager
def _report_user_code(
    name: str, stages: Mapping[str, Stage], base: Path, problems: list[Problem]
) -> Iterator[None]:
    """Turn any exception of a stage's task into a problem at the key that names its code."""
    try:
        yield
    except Exception as error:  # user code may raise any exception
        trained = getattr(getattr(stages[name], "model", None), "stage", None) or ""
        for owner in (name, trained):
            task = getattr(stages.get(owner), "task", None)
            if isinstance(task, TaskConfig) and task.code is not None:
                failure = describe_failure(task.code, base, error)
                problems.append(Problem(failure, ("stages", owner, "task", "kind")))
                return
        raise


def _is_too_long(name: str) -> bool:
    """Return whether a folder name of this name and a key may be too long for a file system."""
    return len(name.encode("utf-8", "surrogatepass")) > _LONGEST


def _sort_key(problem: Problem) -> tuple[bool, int, int]:
    spot = problem.spot
    return (spot is None, spot.line, spot.column) if spot else (True, 0, 0)


class _Reader:
    """Reads one document; collects `problems`, each with its position."""

    def __init__(
        self, document: Document, kinds: Mapping[str, type[Stage]], tasks: Mapping[str, type[TaskConfig]]
    ) -> None:
        self.document, self.kinds, self.tasks = document, kinds, tasks
        self.problems: list[Problem] = []

    def read(self) -> tuple[str, int, dict[str, Stage]]:
        data = self.document.data
        self.add(*find_unknown_keys((key for key in data if key not in _KEYS), (), _KEYS))
        name, seed = data.get("name", self.document.file.stem), data.get("seed", _SEED)
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name) or _is_too_long(name):
            rule = f"use letters, digits, '-', '_' and '.', at most {_LONGEST} characters"
            message = f"name: {describe_value(name)} cannot name a run; it becomes a folder's name: {rule}"
            self.add(Problem(message, ("name",)))
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            wanted = "a whole number from 0 to 4294967295"
            self.add(Problem(f"seed: expected {wanted}, got {describe_value(seed)}", ("seed",)))
        return name, seed, self.read_stages(data)

    def read_stages(self, data: Mapping[str, Any]) -> dict[str, Stage]:
        raw = data.get("stages")
        if "stages" not in data:
            self.add(Problem("missing key 'stages'"))
        elif not isinstance(raw, dict) or not raw:
            message = f"stages: expected a mapping of stage names, got {describe_value(raw)}"
            self.add(Problem(message if raw != {} else "stages: name at least one stage", ("stages",)))
        elif len(raw) > _MOST_STAGES:
            self.add(Problem(f"stages: {len(raw):,} are more than the limit of {_MOST_STAGES}", ("stages",)))
            raw = None
        stages: dict[str, Stage] = {}
        for name, settings in raw.items() if isinstance(raw, dict) else ():
            own = self.document.copies[name].owner if name in self.document.copies else name
            if not isinstance(own, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", own) or _is_too_long(own):
                rule = f"it becomes a folder's name: use a-z, 0-9, '-' and '_', at most {_LONGEST} characters"
                self.add(KeyProblem(f"{own!r} cannot name a stage; {rule}", ("stages", name)))
            if len(self.problems) > _ENOUGH:
                self.add(
                    Problem("the stages from here on are checked once these are fixed", ("stages", name))
                )
                break
            stage = self.read_stage(("stages", name), settings)
            if stage is not None:
                stages[str(name)] = stage
        return stages

    def read_stage(self, path: Keys, raw: Any) -> Stage | None:
        cls = self.choose(path, raw, self.kinds, "kind of stage")
        if cls is None:
            return None
        settings, before = dict(raw), len(self.problems)
        lost = False
        if "task" in cls.model_fields and isinstance(raw.get("task"), (str, dict)):
            settings["task"] = self.read_task((*path, "task"), raw["task"])
            lost = settings["task"] is None
        if lost:
            del settings["task"]  # its problems are reported already
        for key, check in _PASSED_ON.items():
            if key in cls.model_fields and isinstance(raw.get(key), dict):
                self.add(*check(raw[key], (*path, key)))
        stage = self.validate(cls, settings, path, lost=("task",) if lost else ())
        return stage if len(self.problems) == before else None

    def read_task(self, path: Keys, raw: str | dict[str, Any]) -> TaskConfig | None:
        """Build the task from a name or a mapping."""
        settings = {"kind": raw} if isinstance(raw, str) else raw
        kind = settings.get("kind")
        if isinstance(kind, str) and re.fullmatch(Code.pattern, kind):
            cls = self.load_own_task((*path, "kind"), Code(kind))
        else:
            cls = self.choose(path, settings, self.tasks, "task")
        return self.validate(cls, settings, path) if cls is not None else None

    def load_own_task(self, path: Keys, code: Code) -> type[TaskConfig] | None:
        try:
            return load_task_class(code, self.document.file.parent)
        except DataError as error:
            self.add(Problem(str(error), path))
            return None

    def choose(self, path: Keys, raw: Any, table: Mapping[str, Any], what: str) -> Any:
        """Return the class of a `kind` in a table."""
        if not isinstance(raw, dict):
            self.add(Problem(f"{format_keys(path)}: expected a mapping, got {describe_value(raw)}", path))
            return None
        kind, here = raw.get("kind"), (*path, "kind")
        if "kind" not in raw:
            self.add(make_missing_key("kind", raw, path, f"write {join_names(table, 'or')}"))
        elif not isinstance(kind, str):
            self.add(
                Problem(
                    f"{format_keys(here)}: expected {join_names(table, 'or')}, got {describe_value(kind)}",
                    here,
                )
            )
        elif kind not in table:
            self.add(Problem(f"there is no {what} {kind!r}{aliases.suggest_kind(kind, table)}", here))
        else:
            return table[kind]
        return None

    def validate(self, cls: Any, data: Mapping[str, Any], path: Keys, lost: Keys = ()) -> Any:
        """Build settings; `lost` are keys that were removed from `data` because they are invalid."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            self.add(*find_mistakes(cls, data, path, error, lost))
        return None

    def add(self, *problems: Problem) -> None:
        self.problems += [self.document.locate_problem(problem) for problem in problems]
