"""The axes of a `matrix`: the settings that vary, and their values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

from hfpipe.errors import Problem
from hfpipe.recipe.document import Document, KeyProblem
from hfpipe.recipe.messages import Keys, describe_value, suggest

MOST = 500
"""Maximum number of combinations of a matrix."""
_NAME = re.compile(r"[A-Za-z][\w-]*")
_LABEL = re.compile(r"[\w.+-]{1,40}")


@dataclass(frozen=True)
class Value:
    """One value of an axis."""

    label: str
    """Its label in the names of stages."""
    value: Any
    """Its entry in tables: the value of the setting, or the name that the recipe gives it."""
    settings: dict[str, tuple[Any, Keys]]
    """Setting, such as `wiki.limit` → its value, and the path of the value in the file."""


class AxisReader:
    """Reads the axes of a document's matrix; collects `problems`."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        stages = document.data.get("stages")
        self.stages = list(stages) if isinstance(stages, dict) else []
        self.axes = self._read()

    def _read(self) -> dict[str, list[Value]]:
        """Return axis → its values; an axis that is a setting is named by the last part of its path."""
        given = self.document.data["matrix"]
        if not isinstance(given, dict) or not given:
            what = "an empty mapping" if given == {} else describe_value(given)
            self._add(f"matrix: expected settings and their values, got {what}", ("matrix",))
            return {}
        read = {key: list(self._read_axis(key, values, ("matrix", key))) for key, values in given.items()}
        count = prod(map(len, read.values()))
        if count > MOST:
            self._add(f"matrix: {count:,} combinations are more than the limit of {MOST}", ("matrix",))
        self._check_overlaps(read)
        return {} if self.problems else {_shorten_name(key, list(read)): read[key] for key in read}

    def _read_axis(self, key: str | int, given: Any, path: Keys) -> Iterator[Value]:
        """Yield the values of one axis."""
        labels: dict[str, Keys] = {}
        named = isinstance(given, dict)
        if key == "seed":
            fix = "write seeds: [1, 2, 3] in the training stages, whose scores are then means over the seeds"
            self._add_key(f"matrix: seed cannot vary here; {fix}", path)
        elif named and _NAME.fullmatch(str(key)) is None:
            self._add_key(
                f"matrix: {key!r} is not a name for named values; use letters, digits and '-'", path
            )
        elif not named and not self._is_setting(str(key), path):
            return
        elif not isinstance(given, dict | list) or not given:
            self._add(f"matrix.{key}: expected a list of values, got {_describe_empty(given)}", path)
        else:
            for name, item in given.items() if isinstance(given, dict) else enumerate(given):
                here = (*path, name)
                value = (
                    self._read_named(name, item, here) if named else self._read_plain(str(key), item, here)
                )
                if value is not None and value.label in labels:
                    self._add(f"matrix.{key}: the value {value.label} occurs twice", here)
                elif value is not None:
                    labels[value.label] = here
                    yield value

    def _read_plain(self, setting: str, value: Any, path: Keys) -> Value | None:
        """Return the value of a setting, labelled by itself."""
        label = str(value).lower() if isinstance(value, bool) else str(value)
        if not isinstance(value, bool | int | float | str) or _LABEL.fullmatch(label) is None:
            fix = "name it, in a mapping of names to settings, as size: {small: {lm.model: {…}}}"
            message = f"matrix.{setting}: {describe_value(value)} cannot be part of a stage's name; {fix}"
            self._add(message, path)
            return None
        return Value(label, value, {setting: (value, path)})

    def _read_named(self, name: str | int, settings: Any, path: Keys) -> Value | None:
        """Return a named value, which sets several settings."""
        if _LABEL.fullmatch(str(name)) is None:
            rule = "use up to 40 letters, digits, '-', '_', '+' and '.'"
            self._add_key(f"matrix: {name!r} cannot be part of a stage's name; {rule}", path)
            return None
        if not isinstance(settings, dict) or not settings:
            found = _describe_empty(settings)
            message = f"matrix: expected settings, as wiki.limit: 1000, under {name!r}, got {found}"
            self._add(message, path)
            return None
        known = {key: (value, (*path, key)) for key, value in settings.items()}
        right = [self._is_setting(str(key), place) for key, (_, place) in known.items()]
        return (
            Value(str(name), name, {str(key): entry for key, entry in known.items()}) if all(right) else None
        )

    def _is_setting(self, name: str, path: Keys) -> bool:
        """Return whether a name is a setting of a stage; add a problem if not."""
        stage, *keys = name.split(".")
        before = len(self.problems)
        if not keys and stage not in self.stages:
            example = f"{self.stages[0]}.limit" if self.stages else "wiki.limit"
            fix = f"write STAGE.SETTING, as {example}, or a mapping of names to settings"
            self._add_key(f"matrix: {name!r} is not a setting; {fix}", path)
        elif stage not in self.stages:
            self._add_key(f"matrix: there is no stage {stage!r}{suggest(stage, self.stages)}", path)
        elif not keys or not all(re.fullmatch(r"[\w-]+", key) for key in keys):
            self._add_key(f"matrix: {name!r} is not a setting; write STAGE.SETTING", path)
        elif keys == ["kind"]:
            self._add_key(f"matrix: {name!r} cannot vary; write a stage for each kind", path)
        for given, text in self.document.overrides.items():
            if given[:1] == ("stages",) and _overlap(".".join(map(str, given[1:])), name):
                self._add_key(f"matrix: {name!r} varies, and --set {text} sets it; remove one", path)
        return len(self.problems) == before

    def _check_overlaps(self, axes: Mapping[str | int, list[Value]]) -> None:
        """Add a problem for each setting that two axes set."""
        settings = {
            key: {name for value in values for name in value.settings} for key, values in axes.items()
        }
        for (first, some), (second, others) in combinations(settings.items(), 2):
            for name in sorted(others):
                if twice := next((other for other in sorted(some) if _overlap(name, other)), None):
                    both = f"{first!r} sets {twice!r}, and {second!r} sets {name!r}"
                    self._add_key(
                        f"matrix: two axes set the same setting: {both}; remove one", ("matrix", second)
                    )

    def _add(self, message: str, path: Keys) -> None:
        self.problems.append(Problem(message, path))

    def _add_key(self, message: str, path: Keys) -> None:
        self.problems.append(KeyProblem(message, path))


def _describe_empty(given: Any) -> str:
    return "none" if given in ([], {}) else describe_value(given)


def _overlap(first: str, second: str) -> bool:
    """Return whether two settings are the same, or one contains the other."""
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")


def _shorten_name(key: str | int, all_keys: list[str | int]) -> str:
    """Return the shortest unambiguous end of a setting's path, such as `limit` for `wiki.limit`."""
    parts, others = str(key).split("."), [f".{other}" for other in all_keys if other != key]
    ends = (".".join(parts[-length:]) for length in range(1, len(parts)))
    return next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), str(key))
