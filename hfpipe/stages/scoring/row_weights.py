"""Weights of rows in the weighted scores of an evaluation, read from a column of the data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hfpipe.contract import Stage
from hfpipe.errors import Problem
from hfpipe.modeling.losses.settings import NUMBERS, ROW_WEIGHTS
from hfpipe.recipe.messages import suggest
from hfpipe.report import DataFacts, Score
from hfpipe.task import TaskConfig

if TYPE_CHECKING:
    import datasets

    from hfpipe.metrics.resampling import RowWeights
    from hfpipe.references.places import DataPlace

RowWeightsSetting = str | Literal[False] | None
"""A column, `false` for none, or None for the default."""
PATH = ("row_weights",)


def get_row_weights_setting(
    setting: RowWeightsSetting, data: DataPlace, task: TaskConfig | None, above: Mapping[str, Stage]
) -> RowWeightsSetting:
    """Return the setting, by default the column of weights that the data set's stage names in `columns`."""
    named = ROW_WEIGHTS in getattr(above.get(data.stage or ""), "columns", {})
    weighs = task is not None and task.weighted_column is not None
    return ROW_WEIGHTS if setting is None and named and weighs else setting


def check_row_weights(setting: RowWeightsSetting, facts: DataFacts | None) -> Iterator[Problem]:
    """Yield a problem if the column of weights is missing or not numeric; `facts` is None if unknown."""
    if not setting or facts is None:
        return
    kind = facts.columns.get(setting)
    if kind is None:
        message = f"there is no column {setting!r} of row weights{suggest(setting, sorted(facts.columns))}"
        yield Problem(message, PATH)
    elif kind not in NUMBERS:
        yield Problem(
            f"column {setting!r} holds {kind} values, not the weights of rows; name a column of numbers, or "
            "write `row_weights: false`",
            PATH,
        )


def load_row_weights(setting: RowWeightsSetting, rows: datasets.Dataset) -> RowWeights | None:
    """Return the weights of the rows of a split, None if all are equal.

    Raises DataError at the first row without a valid weight, SettingError when all are 0.
    """
    from hfpipe.data.weighting import read_row_weights
    from hfpipe.metrics.resampling import RowWeights

    return RowWeights(setting, read_row_weights(rows, setting, PATH)) if setting else None


def describe_weights(weights: RowWeights | None) -> dict[str, Any]:
    """Return the column of weights and their sum as a fact for the report; nothing without weights."""
    if weights is None:
        return {}
    return {"row_weights": {"column": weights.column, "sum": float(weights.values.sum())}}


def explain_unweighted(weights: RowWeights | None, scores: Sequence[Score]) -> Iterator[str]:
    """Yield a line if rows have weights but no score has a weighted form."""
    if weights is not None and not any("|row-weights:" in score.signature for score in scores):
        yield f"no score is weighted by {weights.column!r}: only accuracy and F1 of classes are"
