"""Names of the stages that one stage of a recipe expands to, and of their folders.

`topics@2` is the training with seed 2, `topics@limit=1000` the copy for one combination of a matrix, and
`topics@limit=1000@2` both. The name of a copy's folder does not contain the combination, because the key
depends on the settings: equal copies share a folder, and a change of notation in the matrix reruns nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

MARK = "@"
"""Separates the name of a stage from the seed, fold or combination: `topics@2`."""
EQUALS = "="
"""Separates the name of an axis of a matrix from its value."""


def make_combination_name(owner: str, values: Mapping[str, str]) -> str:
    """Return the name of a copy of a stage: `topics@size=small,limit=1000`."""
    return owner + MARK + ",".join(f"{axis}{EQUALS}{value}" for axis, value in values.items())


def get_plain_name(name: str) -> str:
    """Return a name without the combination of a matrix: `topics@2` for `topics@limit=1000@2`."""
    return MARK.join(part for part in name.split(MARK) if EQUALS not in part)


def is_copy(name: str) -> bool:
    """Return whether a stage is a copy made by a matrix."""
    return EQUALS in name


def make_folder_name(name: str, key: str) -> str:
    """Return the name of a stage's folder."""
    return f"{get_plain_name(name)}-{key}"


def remove_combinations(settings: Any, names: Mapping[str, str]) -> Any:
    """Return settings in which references to the stages in `names` are replaced by their plain names."""
    if isinstance(settings, Mapping):
        return {key: remove_combinations(value, names) for key, value in settings.items()}
    if isinstance(settings, list):
        return [remove_combinations(value, names) for value in settings]
    if isinstance(settings, str) and settings.startswith("stage:"):
        return "stage:" + names.get(settings[6:], settings[6:])
    return settings


def find_plain_names(names: Collection[str]) -> dict[str, str]:
    """Return copy → its plain name, for each copy whose plain name is unique."""
    counted = Counter(map(get_plain_name, names))
    return {name: plain for name in names if is_copy(name) and counted[plain := get_plain_name(name)] == 1}
