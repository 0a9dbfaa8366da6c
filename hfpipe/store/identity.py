"""What decides the result of a stage, and the key that is made of it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator
from typing_extensions import Self

from hfpipe.report import Record
from hfpipe.store.stage_names import find_plain_names, without_combinations

KEY_LENGTH = 12
"""Hex digits of a key."""


class StageIdentity(Record):
    """Everything that decides what a stage leaves behind."""

    kind: str
    """Kind of the stage."""
    version: int
    """Version of the stage's code."""
    seed: int
    """The seed of the stage, by default the recipe's."""
    settings: dict[str, Any]
    """The settings with every default filled in."""
    files: dict[str, str]
    """Local files, packages and own code, as the recipe writes them → digest of their content."""
    inputs: dict[str, str]
    """Stages above that are read → their keys."""
    task_version: int = 1
    """Version of the task that the settings hold."""
    neutral: dict[str, Any] = {}
    """Settings that cannot change the result, by path, with what replaces them in the key, if anything."""

    @model_validator(mode="after")
    def _names_settings(self) -> Self:
        """Refuse a damaged file, in which neutral settings are not where their paths lead."""
        try:
            decisive_settings(self.settings, self.neutral)
        except (KeyError, TypeError) as error:
            raise ValueError(f"neutral settings lead nowhere: {error}") from error
        return self

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that the key is made of."""
        return decisive_settings(self.settings, self.neutral)

    @property
    def key(self) -> str:
        """Hex key of the folder; the first version of a task is left out, as before there were versions.

        Of the copies of a stage that a matrix makes, the input's own key tells which one is read.
        """
        first = {"task_version"} if self.task_version == 1 else set()
        decisive = self.model_dump(exclude=first | {"neutral"}) | {"settings": self.decisive}
        if names := find_plain_names(self.inputs):
            decisive["settings"] = without_combinations(decisive["settings"], names)
            decisive["inputs"] = {names.get(name, name): key for name, key in self.inputs.items()}
        text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def decisive_settings(settings: Mapping[str, Any], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with each neutral one replaced by its value in the key, or removed if that is None."""
    found = copy.deepcopy(dict(settings))
    for path, value in neutral.items():
        *above, name = path.split(".")
        inner = found
        for part in above:
            inner = inner[part]
        if value is None:
            inner.pop(name, None)
        else:
            inner[name] = value
    return found
