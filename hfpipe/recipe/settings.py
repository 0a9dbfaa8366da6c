"""Validates a mapping against a settings class, and rewrites pydantic's errors in plain English."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hfpipe.errors import MOST, Problem, join_words
from hfpipe.recipe import aliases
from hfpipe.recipe.document import KeyProblem
from hfpipe.recipe.installed import read_installed_arguments
from hfpipe.recipe.messages import (
    Keys,
    describe_position,
    describe_value,
    find_similar_name,
    format_keys,
    suggest,
)

_WANTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_AT_ONCE = 4 * MOST  # pydantic reports one error per member of a union
_NONE: Mapping[str, str] = types.MappingProxyType({})


def make_unknown_key(
    path: Keys, known: typing.Iterable[str], usual: Mapping[str, str] = _NONE, inner: str | None = None
) -> Problem:
    """Return the problem of an unknown key, with a suggestion.

    `usual` maps default values to keys, for column names that were written as keys.
    `inner` is a nested key of the same name, such as `training.learning_rate`.
    """
    *above, name = path
    hint = usual.get(str(name)) or aliases.find_hint(str(name), tuple(above))
    hint = hint or (f"write {inner!r}" if inner else None)
    tail = f"; {hint}" if hint else suggest(str(name), known)
    return KeyProblem(f"unknown key {name!r}{describe_position(tuple(above))}{tail}", path)


def find_unknown_keys(
    keys: typing.Iterable[str | int], path: Keys, known: Sequence[str]
) -> Iterator[Problem]:
    """Yield the problem of each unknown key of one mapping; a large number is merged into one problem."""
    keys = iter(keys)
    for key in islice(keys, MOST):
        yield make_unknown_key((*path, key), known)
    if rest := list(keys):
        message = f"{len(rest):,} more unknown keys{describe_position(path)} from here on"
        yield KeyProblem(message, (*path, rest[0]), count=len(rest))


def make_missing_key(name: str, given: Mapping[Any, Any], path: Keys, fix: str) -> Problem:
    """Return the problem of a missing key that determines the others, or of a similar, misspelt key."""
    slip = find_similar_name(name, [key for key in given if isinstance(key, str)])
    if slip is not None:
        return make_unknown_key((*path, slip), [name])
    return KeyProblem(f"missing key {name!r}{describe_position(path)}; {fix}", path)


def find_mistakes(
    cls: type[BaseModel], data: Mapping[str, Any], path: Keys, error: ValidationError, lost: Keys = ()
) -> list[Problem]:
    """Describe all errors of one validation in words, each once.

    `path` is the position of `data`; keys in `lost` were removed on purpose.
    """
    details = [d for d in error.errors(include_url=False) if d["type"] != "missing" or d["loc"] not in [lost]]
    found = [_Mistake(cls, data, path, detail) for detail in details[:_AT_ONCE]]
    problems: list[Problem] = []
    for group in _group_mistakes(found):
        wanted = list(dict.fromkeys(mistake.wanted for mistake in group if mistake.wanted))
        if len(group) > 1 and wanted:
            problems.append(group[0].make_expected(wanted))
        else:
            problems.append(group[0].make_problem())
    if rest := len(details) - len(found):
        message = f"{rest:,} more mistakes{describe_position(path)} from here on"
        problems.append(Problem(message, found[-1].path, count=rest))
    return problems


class _Mistake:
    """One pydantic error, with its path in the data instead of pydantic's location."""

    def __init__(self, cls: type[BaseModel], data: Any, base: Keys, detail: ErrorDetails) -> None:
        self.cls, self.data, self.detail, self.kind = cls, data, detail, detail["type"]
        self.steps, self.branch = _find_steps(data, detail)
        self.path = (*base, *self.steps)
        self.wanted = self._find_expected()

    def _find_expected(self) -> str | None:
        if self.kind == "literal_error":
            return " or ".join(_list_choices(self.detail))
        return _WANTED.get(self.kind)

    def make_expected(self, wanted: list[str]) -> Problem:
        given = describe_value(self.detail["input"])
        return Problem(f"{format_keys(self.path)}: expected {' or '.join(wanted)}, got {given}", self.path)

    def make_problem(self) -> Problem:
        if self.kind == "missing":
            *above, name = self.path
            return KeyProblem(f"missing key {name!r}{describe_position(tuple(above))}", tuple(above))
        if self.kind == "extra_forbidden":
            return self._make_unknown()
        if self.kind == "literal_error":
            return self._make_choice()
        if self.wanted is not None:
            return self.make_expected([self.wanted])
        return Problem(f"{format_keys(self.path)}: {self._describe_refusal()}", self.path)

    def _make_unknown(self) -> Problem:
        name = self.detail["loc"][-1]
        if self.steps[-1:] == (name,):
            above = self.steps[:-1]
            usual, inner = (
                _map_default_advice(self.cls, above),
                _find_inner_key(self.cls, self.data, above, str(name)),
            )
            return make_unknown_key(self.path, _list_fields(self.cls, above), usual, inner)
        problem = make_unknown_key((*self.path, name), _list_fields(self.cls, self.steps))
        return Problem(problem.message, self.path)  # a short form has no key

    def _describe_refusal(self) -> str:
        detail = self.detail
        if self.kind in _BOUNDS:
            name, words = _BOUNDS[self.kind]
            return f"must be {words} {detail['ctx'][name]}, got {detail['input']!r}"
        if self.kind == "value_error":
            return str(detail["ctx"]["error"])
        return detail["msg"][:1].lower() + detail["msg"][1:]

    def _make_choice(self) -> Problem:
        known, given = _list_choices(self.detail), self.detail["input"]
        names = [choice.strip("'") for choice in known]
        close = find_similar_name(given, names) if isinstance(given, str) else None
        tail = f"; did you mean {close!r}?" if close else ""
        message = (
            f"{format_keys(self.path)}: expected {join_words(known, 'or')}, got {describe_value(given)}{tail}"
        )
        return Problem(message, self.path)


def _list_choices(detail: ErrorDetails) -> list[str]:
    """Return the allowed values as YAML writes them, from pydantic's `'a', 'b' or False`."""
    parts = str(detail["ctx"]["expected"]).replace(" or ", ", ").split(", ")
    return [part if part.startswith("'") else part.lower() for part in parts]


def _find_steps(data: Any, detail: ErrorDetails) -> tuple[Keys, str | None]:
    """Remove the names of union members from pydantic's location; return the first of them as well."""
    steps: list[str | int] = []
    branch = None
    location = detail["loc"]
    for number, key in enumerate(location):
        last_missing = detail["type"] == "missing" and number == len(location) - 1
        if isinstance(data, Mapping) and (key in data or last_missing):
            steps.append(key)
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            steps.append(key)
            data = data[key]
        elif branch is None:
            branch = str(key)
    return tuple(steps), branch


def _group_mistakes(mistakes: list[_Mistake]) -> Iterator[list[_Mistake]]:
    """Group the errors of one value; of a union's members only the best matching ones are kept."""
    left = list(mistakes)
    while left:
        first = left.pop(0)
        if first.branch is None:
            yield [first]
            continue
        union = _find_union_path(first)
        same = [first, *[m for m in left if m.branch is not None and _find_union_path(m) == union]]
        left = [m for m in left if not any(m is other for other in same)]
        deeper = [m for m in same if len(m.steps) > len(union) or m.wanted is None]
        if not deeper:
            yield same
        else:
            best = deeper[-1].branch if all(m.wanted for m in deeper) else deeper[0].branch
            yield from ([m] for m in deeper if m.branch == best)


def _find_union_path(mistake: _Mistake) -> Keys:
    """Return the path of the value with a union type: the part before the member's name."""
    location = mistake.detail["loc"]
    number = next(n for n, key in enumerate(location) if str(key) == mistake.branch)
    return tuple(mistake.steps[:number])


def _list_fields(cls: Any, steps: Keys) -> list[str]:
    """Return the keys that a settings class accepts at a path inside it."""
    return [name for model in _find_models(cls, steps) for name in model.model_fields]


def _map_default_advice(cls: Any, steps: Keys) -> dict[str, str]:
    """Return default value of a text setting, without braces → advice on which key to write."""
    fields = [entry for model in _find_models(cls, steps) for entry in model.model_fields.items()]
    usual = {name: field.default for name, field in fields if isinstance(field.default, str)}
    return {text.strip("{}"): f"write {name!r} (by default {text!r})" for name, text in usual.items()}


def _find_inner_key(cls: Any, data: Any, steps: Keys, name: str) -> str | None:
    """Return the only key of this name one level below, such as `training.learning_rate`."""
    found = []
    for model in _find_models(cls, steps):
        for field in model.model_fields:
            given = data.get(field) if not steps and isinstance(data, Mapping) else None
            classes = [type(given)] if isinstance(given, BaseModel) else _find_models(model, (field,))
            fields = {entry for below in classes for entry in below.model_fields}
            if name in (fields if field != "training" else read_installed_arguments()):
                found.append(f"{field}.{name}")
    return found[0] if len(found) == 1 else None


def _find_models(cls: Any, steps: Keys) -> list[type[BaseModel]]:
    """Return the settings classes that are allowed at a path inside a settings class."""
    candidates = [cls]
    for step in steps:
        candidates = [below for candidate in candidates for below in _find_annotations(candidate, step)]
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def _find_annotations(annotation: Any, step: str | int) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(step))
        yield from _iterate_members(field.annotation) if field else ()
    else:
        arguments = typing.get_args(annotation)
        yield from _iterate_members(arguments[-1]) if arguments else ()


def _iterate_members(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _iterate_members(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _iterate_members(member)
    else:
        yield annotation
