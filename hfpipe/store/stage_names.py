"""Names of the stages that one stage of a recipe stands for, and of their folders.

`topics@2` is a training with seed 2, `topics@limit=1000` the copy for one combination of a matrix, and
`topics@limit=1000@2` both. The folder of a copy is named without its combination, as its key depends on the
settings themselves: equal copies share a folder, and a matrix that is written in another way reruns nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

MARK = "@"
"""Separates the name of a stage from what tells apart the stages that it stands for: `topics@2`."""
EQUALS = "="
"""Stands between the name of an axis of a matrix and its value."""


def combination_name(owner: str, values: Mapping[str, str]) -> str:
    """Return the name of a copy of a stage: `topics@size=small,limit=1000`."""
    return owner + MARK + ",".join(f"{axis}{EQUALS}{value}" for axis, value in values.items())


def plain_name(name: str) -> str:
    """Return a name without the combination of a matrix: `topics@2` for `topics@limit=1000@2`."""
    return MARK.join(part for part in name.split(MARK) if EQUALS not in part)


def is_copy(name: str) -> bool:
    """Tell whether a stage is one of the copies that a matrix makes."""
    return EQUALS in name


def folder_name(name: str, key: str) -> str:
    """Return the name of a stage's folder."""
    return f"{plain_name(name)}-{key}"


def without_combinations(settings: Any, names: Mapping[str, str]) -> Any:
    """Return settings in which each reference to a stage of `names` is one to its plain name."""
    if isinstance(settings, Mapping):
        return {key: without_combinations(value, names) for key, value in settings.items()}
    if isinstance(settings, list):
        return [without_combinations(value, names) for value in settings]
    if isinstance(settings, str) and settings.startswith("stage:"):
        return "stage:" + names.get(settings[6:], settings[6:])
    return settings


def find_plain_names(names: Collection[str]) -> dict[str, str]:
    """Return copy → its plain name, for the copies of which no other has the same plain name."""
    counted = Counter(map(plain_name, names))
    return {name: plain for name in names if is_copy(name) and counted[plain := plain_name(name)] == 1}
