"""Class names in the config of a model, and their comparison with those of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

REGRESSION = "regression"
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"


def create_class_entries(names: Sequence[str]) -> dict[str, Any]:
    """Return the config entries for class names."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }


def get_class_names(config: PretrainedConfig) -> list[str]:
    """Return the classes in the order of their ids, since files may sort ids as text: 1, 10, 2."""
    return [name for _, name in sorted((config.id2label or {}).items())]


def get_problem_type(config: PretrainedConfig) -> str:
    """Return Transformers' `get_problem_type`: from the config, or by its number of labels.

    Raises ValueError when the config has another value.
    """
    found: str = config.problem_type or (REGRESSION if len(get_class_names(config)) == 1 else SINGLE_LABEL)
    if found not in (REGRESSION, SINGLE_LABEL, MULTI_LABEL):
        raise ValueError(f"problem_type is {found!r}; write {SINGLE_LABEL}, {MULTI_LABEL} or {REGRESSION}")
    return found


def find_class_permutation(old: Sequence[str], new: Sequence[str]) -> list[int] | None:
    """Return the old index of each new class, or None if the classes are not the same."""
    places = {name: place for place, name in enumerate(old)}
    if len(places) != len(old) or len(old) != len(new) or places.keys() != set(new):
        return None
    return [places[name] for name in new]


def get_head_classes(head: Mapping[str, Any]) -> list[str] | None:
    """Return the class names of a task's head, in the order of their ids; None without classes."""
    return [name for _, name in sorted(head["id2label"].items())] if "id2label" in head else None
