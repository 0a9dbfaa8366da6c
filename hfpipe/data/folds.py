"""Assigns the rows of a split to folds: groups stay together, classes are spread evenly."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import datasets
import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from hfpipe.errors import DataError

ROWS_AT_ONCE = 1000


def assign_folds(
    rows: datasets.Dataset,
    count: int,
    *,
    inputs: Sequence[str],
    group: str | None,
    label: str | None,
    seed: int,
) -> np.ndarray:
    """Return the fold of each row, from 1 to `count`: int64, shape (rows,).

    Rows with an equal value of `group`, or with equal `inputs` where there is no group, are in one fold, so
    that no model predicts a row whose duplicate it was trained on. The classes of `label` have about the same
    proportions in each fold as in all rows. The folds are those of scikit-learn's `StratifiedGroupKFold`, or
    of `StratifiedKFold` if each row is a group of its own, shuffled by `seed`.

    Raises DataError when there are fewer groups than folds.
    """
    groups = _number_rows(rows, [group] if group is not None else inputs, keep_missing=group is None)
    there = len(np.unique(groups))
    if there < count:
        what = f"different values of {group!r}" if group is not None else "different rows"
        raise DataError(f"folds: {count} folds need at least {count} {what}, but there are {there}")
    classes = np.zeros(len(groups), dtype=np.int64) if label is None else _number_classes(rows, label, count)
    grouped = there < len(groups)
    splitter = StratifiedGroupKFold if grouped else StratifiedKFold
    folds = np.zeros(len(groups), dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # some folds lack it
        parts = splitter(count, shuffle=True, random_state=seed).split(
            groups, classes, groups if grouped else None
        )
        for number, (_, held_out) in enumerate(parts, 1):
            folds[held_out] = number
    return folds


def _number_classes(rows: datasets.Dataset, label: str, count: int) -> np.ndarray:
    """Return the class of each row as an integer; classes with fewer rows than folds are merged into one."""
    names = rows.with_format(None)[label][:]
    sizes = Counter(names)
    numbers: dict[Hashable, int] = {}
    return np.array(
        [numbers.setdefault(name, len(numbers)) if sizes[name] >= count else -1 for name in names]
    )


def _number_rows(rows: datasets.Dataset, columns: Sequence[str], *, keep_missing: bool) -> np.ndarray:
    """Return the number of each row's group: rows with equal values share one; a missing value is a group."""
    found = np.empty(len(rows), dtype=np.int64)
    numbers: dict[Any, int] = {}
    alone = rows.select_columns([name for name in columns if name in rows.column_names]).with_format(None)
    for start in range(0, len(alone), ROWS_AT_ONCE):
        batch = alone[start : start + ROWS_AT_ONCE]
        for offset, values in enumerate(zip(*batch.values(), strict=True)):
            missing = not keep_missing and values == (None,)
            key = start + offset if missing else json.dumps(values, sort_keys=True, default=str)
            found[start + offset] = numbers.setdefault(key, len(numbers))
    return found
