"""Weights of classes for a loss: given in the recipe, or balanced by class frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch

from hfpipe.errors import Problem, SettingError
from hfpipe.recipe.messages import join_names

WEIGHTS = ("loss", "weights")
"""Path of the setting inside its stage."""
MOST_NAMED = 5
"""Maximum number of classes named in a message."""


def compute_class_weights(
    given: Literal["balanced"] | Mapping[str, float], labels: Any, names: Sequence[str], kind: str
) -> torch.Tensor:
    """Return the weight of each class, float32 (classes,), in the order of `names`.

    `labels` is a sequence or array of the labels of the train rows: class ids, or lists of them. `kind` is
    `label` for one class per row or word, `labels` for lists, for which balanced weights are those of
    scikit-learn for each class against the rest. Raises SettingError for a class without a balanced weight.
    """
    if isinstance(given, Mapping):
        found = [given.get(name, 1.0) for name in names]
        if not any(found):
            raise SettingError(Problem("every class has weight 0; nothing could be learned", WEIGHTS))
        return torch.tensor(found)
    balanced = _balance_labels if kind == "labels" else _balance_classes
    return torch.from_numpy(balanced(labels, names)).float()


def flatten_tags(tags: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the class ids of all words in one array, int64 (words,)."""
    return np.fromiter(chain.from_iterable(tags), np.int64)


def _balance_classes(labels: Any, names: Sequence[str]) -> np.ndarray:
    """Return `n / (k · n_c)` of each class (King and Zeng, 2001, as in scikit-learn)."""
    from sklearn.utils.class_weight import compute_class_weight

    ids = np.asarray(labels)
    _reject_classes(np.bincount(ids, minlength=len(names)) == 0, names, "in no row")
    return compute_class_weight("balanced", classes=np.arange(len(names)), y=ids)


def _balance_labels(labels: Any, names: Sequence[str]) -> np.ndarray:
    """Return for each class the balanced weight of the rows that have it, relative to the other rows."""
    from sklearn.utils.class_weight import compute_class_weight

    there = np.zeros((len(labels), len(names)), dtype=np.int64)
    for row, ids in zip(there, labels, strict=True):
        row[list(ids)] = 1
    having = there.sum(axis=0)
    _reject_classes(having == 0, names, "in no row")
    _reject_classes(having == len(labels), names, "in every row")
    pairs = [compute_class_weight("balanced", classes=np.array([0, 1]), y=column) for column in there.T]
    return np.array([has / lacks for lacks, has in pairs])


def _reject_classes(wrong: np.ndarray, names: Sequence[str], where: str) -> None:
    """Raise SettingError for classes that have no balanced weight."""
    odd = [name for name, found in zip(names, wrong, strict=True) if found]
    if not odd:
        return
    what = "class" if len(odd) == 1 else f"{len(odd):,} classes"
    listed = join_names(odd) if len(odd) <= MOST_NAMED else f"{join_names(odd[:MOST_NAMED])} among them"
    raise SettingError(
        Problem(
            f"no balanced weight: {what} ({listed}) {'is' if len(odd) == 1 else 'are'} {where} of the train "
            "split; write the weights as `{CLASS: WEIGHT}`, or remove these classes from the data",
            WEIGHTS,
        )
    )
