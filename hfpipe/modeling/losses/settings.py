"""The `loss` of a finetune stage: weights of classes and rows, and focal loss; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hfpipe.contract import Settings
from hfpipe.errors import Problem
from hfpipe.recipe.messages import join_names, suggest

if TYPE_CHECKING:
    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig

ROW_WEIGHTS = "weight"
"""Column with the weights of rows by default, if the data set's stage names it in `columns`."""
NUMBERS = ("int", "float", "string")
"""Types of columns that may contain the weights of rows; csv and tsv files contain strings."""


class LossSettings(Settings):
    """Weights and focal loss for unbalanced data; validation losses and scores stay unweighted."""

    weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Weight of each class, or `balanced`: `n / (k · n_c)` for `n` targets of `k` classes, `n_c` of a class.

    Classes that are not named have weight 1. The loss is divided by the sum of the weights of its targets.
    With several labels per row a weight is torch's `pos_weight`: it multiplies the loss of the rows that have
    the class, the loss is divided by rows × classes, and `balanced` is the rows without the class divided by
    those with it.
    """
    focal: float | None = Field(default=None, ge=0)
    """Exponent of focal loss (Lin et al., 2017): a target of probability `p` counts `(1 - p) ** focal`."""
    row_weights: str | None = None
    """Column of numbers, at least 0, by which the loss of each row is multiplied.

    By default `weight`, if `columns` of the data set's stage names it; `null` uses none.
    """

    @property
    def is_plain(self) -> bool:
        """Whether the loss is the unweighted loss of the task."""
        return self.weights is None and self.row_weights is None and not self.focal


def check_loss(
    loss: LossSettings, task: TaskConfig, facts: DataFacts | None, *, smoothed: bool
) -> Iterator[Problem]:
    """Yield what is wrong with a loss, as far as the data are known, with paths relative to the stage."""
    column = task.weighted_column
    if column is None:
        yield Problem(
            f"{task.kind} has no weighted loss; text-classification and token-classification have one: "
            "delete loss",
            ("loss",),
        )
    if loss.focal and smoothed:
        yield Problem(
            "focal loss has no label smoothing; delete focal or label_smoothing_factor", ("loss", "focal")
        )
    if column is not None and facts is not None:
        yield from _check_classes(loss, column, facts)
        yield from _check_row_weights(loss, facts)


def check_calibration(wanted: Sequence[str], task: TaskConfig, facts: DataFacts | None) -> Iterator[Problem]:
    """Yield what cannot be calibrated, as far as the data are known, with paths relative to the stage."""
    column, path = task.weighted_column, ("calibrate",)
    kind = facts.columns.get(column or "") if facts is not None else None
    if wanted and column is None:
        yield Problem(
            f"{task.kind} cannot be calibrated; text-classification and token-classification can: "
            "delete calibrate",
            path,
        )
    elif wanted and kind == "float":
        yield Problem(f"column {column!r} holds numbers, which have no probabilities; delete calibrate", path)
    elif "thresholds" in wanted and (kind == "label" or task.auto_class == "AutoModelForTokenClassification"):
        yield Problem(
            "thresholds need several classes per row, and here each row has one; delete thresholds",
            path,
        )


def _check_classes(loss: LossSettings, column: str, facts: DataFacts) -> Iterator[Problem]:
    names = facts.labels.get(column)
    if names is None:
        if column in facts.columns:  # otherwise reported where the task is checked
            for key in ("weights", "focal"):
                if getattr(loss, key) is not None:
                    message = f"column {column!r} holds numbers, not classes; delete {key}"
                    yield Problem(message, ("loss", key))
        return
    for name in loss.weights if isinstance(loss.weights, dict) else ():
        if name not in names:
            known = suggest(name, names) or f"; there are {join_names(names[:20])}"
            yield Problem(f"column {column!r} has no class {name!r}{known}", ("loss", "weights", name))


def _check_row_weights(loss: LossSettings, facts: DataFacts) -> Iterator[Problem]:
    name = loss.row_weights
    if name is None:
        return
    kind = facts.columns.get(name)
    if kind is None:
        known = suggest(name, facts.columns) or f"; it has {join_names(sorted(facts.columns))}"
        yield Problem(f"the data set has no column {name!r}{known}", ("loss", "row_weights"))
    elif kind not in NUMBERS:
        yield Problem(
            f"column {name!r} holds {kind} values, not the weights of rows; name a column of numbers, "
            "or write `row_weights: null`",
            ("loss", "row_weights"),
        )
