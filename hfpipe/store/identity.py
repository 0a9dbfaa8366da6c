"""Everything that determines the result of a stage, and the key computed from it."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import model_validator
from typing_extensions import Self

from hfpipe.report import Record
from hfpipe.store.stage_names import find_plain_names, remove_combinations

KEY_LENGTH = 12
"""Hex digits of a key."""


class StageIdentity(Record):
    """Everything that determines the output of a stage."""

    kind: str
    """Kind of the stage."""
    version: int
    """Version of the stage's code."""
    seed: int
    """The seed of the stage, by default the recipe's."""
    settings: dict[str, Any]
    """The settings with every default filled in."""
    files: dict[str, str]
    """Local files, packages and user code, as written in the recipe → digest of their content."""
    inputs: dict[str, str]
    """Upstream stages that are read → their keys."""
    task_version: int = 1
    """Version of the task in the settings."""
    neutral: dict[str, Any] = {}
    """Path of each setting that cannot change the result → its value in the key; None removes it."""

    @model_validator(mode="after")
    def _check_neutral_paths(self) -> Self:
        """Reject a damaged file, in which the paths of neutral settings do not exist."""
        try:
            find_decisive_settings(self.settings, self.neutral)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a path of `neutral` does not exist: {error}") from error
        return self

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that are part of the key."""
        return find_decisive_settings(self.settings, self.neutral)

    @property
    def key(self) -> str:
        """Hex key of the folder; version 1 of a task is omitted, as in keys from before there were versions.

        For an input that is a copy made by a matrix, its key identifies the copy, and its name is omitted.
        """
        first = {"task_version"} if self.task_version == 1 else set()
        decisive = self.model_dump(exclude=first | {"neutral"}) | {"settings": self.decisive}
        if names := find_plain_names(self.inputs):
            decisive["settings"] = remove_combinations(decisive["settings"], names)
            decisive["inputs"] = {names.get(name, name): key for name, key in self.inputs.items()}
        text = json.dumps(decisive, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def find_decisive_settings(settings: Mapping[str, Any], neutral: Mapping[str, Any]) -> dict[str, Any]:
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
