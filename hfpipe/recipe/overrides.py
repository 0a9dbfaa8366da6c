"""Applies `--set stage.key=value` to a parsed recipe, before anything is checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfpipe.errors import Problem, RecipeError
from hfpipe.recipe.document import Document
from hfpipe.recipe.messages import Keys, describe_value, fold_lines, format_keys, suggest
from hfpipe.recipe.source import parse_yaml

_TOP = ("name", "seed")


class OverrideError(Exception):
    """A setting cannot be set."""


def apply_overrides(document: Document, overrides: Sequence[str]) -> None:
    """Change the document's data in place; overrides that cannot be applied are added to its problems."""
    for text in overrides:
        _apply(document, text)


def apply_options(settings: dict[str, Any], options: Sequence[str], option: str = "--set") -> None:
    """Change a mapping of settings in place by options of the form `key=value` or `key.inner=value`.

    `option` is the name of the command line option in messages.
    Raises RecipeError with all options that cannot be applied.
    """
    problems = []
    for text in options:
        name, equals, _ = text.partition("=")
        keys = name.strip().split(".")
        try:
            if not equals or not all(keys):
                raise OverrideError("expected key=value")
            set_value(settings, tuple(keys), _parse_value(text))
        except OverrideError as wrong:
            problems.append(Problem(f"{option} {fold_lines(text)}: {wrong}"))
    if problems:
        raise RecipeError(problems)


def _apply(document: Document, text: str) -> None:
    try:
        path = _parse_path(document, text)
        document.overrides[set_value(document.data, path, _parse_value(text))] = text
    except OverrideError as wrong:
        document.problems.append(Problem(f"--set {fold_lines(text)}: {wrong}"))


def _parse_path(document: Document, text: str) -> Keys:
    name, equals, _ = text.partition("=")
    if not equals:
        raise OverrideError("expected stage.key=value; there is no '='")
    first, *rest = name.strip().split(".")
    if first == "stages" and rest:
        first, *rest = rest
    if not rest and first in _TOP:
        return (first,)
    if rest and first == "matrix" and isinstance(document.data.get("matrix"), dict):
        return ("matrix", ".".join(rest))  # an axis is a setting's path, or a name without a point
    stages = document.data.get("stages")
    known = [key for key in stages if isinstance(key, str)] if isinstance(stages, dict) else []
    if first not in known:
        raise OverrideError(f"there is no stage {first!r}{suggest(first, [*known, *_TOP])}")
    if not rest or not all(rest):
        raise OverrideError("expected stage.key=value; name the key")
    return ("stages", first, *rest)


def _parse_value(text: str) -> Any:
    given = parse_yaml(text.partition("=")[2], Path("--set"))
    if given.problems:
        raise OverrideError(given.problems[0].message)
    return given.data


def set_value(data: Any, path: Keys, value: Any) -> Keys:
    """Set the value, creating intermediate mappings; return the path with indices as integers.

    Raises OverrideError if the path does not exist.
    """
    done: list[str | int] = []
    for key in path[:-1]:
        if isinstance(data, dict) and key == "task" and isinstance(data.get(key), str):
            data[key] = {"kind": data[key]}  # expand the short form to add an option
        if isinstance(data, dict) and data.get(key) is None:
            data[key] = {}
        done.append(key if isinstance(data, dict) else _parse_index(data, key, tuple(done)))
        data = data[done[-1]]
    done.append(path[-1] if isinstance(data, dict) else _parse_index(data, path[-1], tuple(done)))
    data[done[-1]] = value
    return tuple(done)


def _parse_index(data: Any, key: str | int, path: Keys) -> int:
    if not isinstance(data, list):
        raise OverrideError(f"{format_keys(path)} is {describe_value(data)} and has no keys")
    if not data:
        raise OverrideError(f"{format_keys(path)} is an empty list; write the whole list")
    if not str(key).isdecimal() or int(key) >= len(data):
        raise OverrideError(f"{format_keys(path)} is a list; write an index from 0 to {len(data) - 1}")
    return int(key)
