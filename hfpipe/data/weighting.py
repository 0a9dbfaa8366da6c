"""Weights of rows and classes in a training loss, read from the columns of a data set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from hfpipe.data.labels.values import is_missing, parse_decimal
from hfpipe.encoding.origins import name_row
from hfpipe.errors import DataError, Problem, SettingError
from hfpipe.modeling.losses.class_weights import compute_class_weights, flatten_tags
from hfpipe.modeling.losses.weighted_loss import WeightedLoss
from hfpipe.number_format import is_number

if TYPE_CHECKING:
    from hfpipe.encoding.encoded import Examples
    from hfpipe.modeling.losses.settings import LossSettings
    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig


def create_weighted_loss(
    loss: LossSettings, task: TaskConfig, train: Examples, facts: DataFacts
) -> WeightedLoss:
    """Return the loss that a recipe describes, with the weights of the rows and classes of the train split.

    Raises DataError at the first row without a valid weight, SettingError when the classes cannot be
    balanced, or when user code computes the loss of the task, which a weighted loss would replace.
    """
    column = task.weighted_column
    assert column is not None  # checked with the recipe
    own = type(task.runtime().objective)
    if not own.__module__.startswith("hfpipe."):
        message = f"{task.kind} computes its loss by {own.__name__}, which does not support weights"
        raise SettingError(
            Problem(f"{message}; write `loss: {{row_weights: null}}` or another task", ("loss",))
        )
    classes = None
    if loss.weights is not None:
        # Token classification has one label per word, not per row.
        tagged = facts.columns[column] == "labels" and task.auto_class == "AutoModelForTokenClassification"
        labels = flatten_tags(train.source[column]) if tagged else train.source[column]
        kind = "label" if tagged else facts.columns[column]
        classes = compute_class_weights(loss.weights, labels, facts.labels[column], kind)
    rows = None
    if loss.row_weights is not None:
        rows = read_row_weights(train.source, loss.row_weights)[train.rows].astype(np.float32)
    return WeightedLoss(classes, loss.focal or 0.0, rows)


def describe_weighting(weighted: WeightedLoss, task: TaskConfig, facts: DataFacts) -> dict[str, Any]:
    """Return facts about a weighted loss for the report; `validation` describes the validation loss."""
    classes, rows = weighted.class_weights, weighted.row_weights
    names = facts.labels.get(task.weighted_column or "", [])
    return {
        "class_weights": dict(zip(names, classes.tolist(), strict=True)) if classes is not None else None,
        "focal": weighted.focal,
        "sum_of_row_weights": float(rows.sum(dtype=np.float64)) if rows is not None else None,
        "validation": "not weighted",
    }


def read_row_weights(
    rows: datasets.Dataset, column: str, path: tuple[str, ...] = ("loss", "row_weights")
) -> np.ndarray:
    """Return the weight of each row of a split, float64 (rows,); a text such as `0.5` is read as a number.

    Raises DataError at the first row whose weight is missing, not a number, infinite or negative, and
    SettingError, for the setting at `path`, when all are 0.
    """
    weights = np.empty(len(rows))
    for position, value in enumerate(rows[column]):
        weight = _parse_weight(value)
        if isinstance(weight, str):
            raise DataError(
                f"{name_row(rows, position)}: {column!r} {weight}, but the weight of a row is a number, at "
                "least 0; fix the row or drop it"
            )
        weights[position] = weight
    if not weights.any():
        split = f"the {rows.split} split" if rows.split is not None else "the split"
        message = f"column {column!r} is 0 in every row of {split}; no row would count"
        raise SettingError(Problem(message, path))
    return weights


def _parse_weight(value: Any) -> float | str:
    """Return a weight, or the problem with it."""
    if is_missing(value):
        return "is missing"
    number: Any = parse_decimal(value) if isinstance(value, str) else value
    if not is_number(number) or not math.isfinite(number):
        return f"is {value!r:.40}"
    return f"is {number:g}" if number < 0 else float(number)
