"""Classes as the config of a model holds them: names by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def named(names: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a config that name the classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def names_in(config: PretrainedConfig) -> list[str]:
    """Return the classes in the order of their numbers, which files sorted as text do not keep: 1, 10, 2."""
    return [name for _, name in sorted((config.id2label or {}).items())]
