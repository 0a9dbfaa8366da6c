"""A trained model in memory with its task, for `predict`, `explain` and `demo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hfpipe.data.rows import Row
from hfpipe.inference.inputs import Values, complete_rows, pair_with_predictions
from hfpipe.inference.predictor import Predictor
from hfpipe.inference.resolve import TrainedModel


class LoadedModel:
    """Checks rows, and makes predictions for them.

    Args:
        trained: Location and task of the model.
        batch_size: Number of rows per forward pass.

    Raises:
        StageError: The model cannot be loaded.
    """

    def __init__(self, trained: TrainedModel, batch_size: int) -> None:
        self.task = trained.task
        self.predictor = Predictor(
            trained.place, trained.task.runtime(), batch_size, trusts_export=trained.by_recipe
        )

    @property
    def columns(self) -> dict[str, str]:
        """Column that a prediction reads → type of its values, empty if any is allowed."""
        known = self.predictor.reading.facts.columns
        return {name: known.get(name, "") for name in self.task.inputs}

    @property
    def required(self) -> list[str]:
        """The columns that need a value in every row."""
        return [name for name in self.task.inputs if name not in self.task.optional]

    def check_rows(self, given: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows after checking them. Raises DataError at a row without a column of the task."""
        return complete_rows(given, self.task.inputs, self.predictor.reading.facts, self.task.optional)

    def predict(self, given: Iterator[Row]) -> Iterator[tuple[Values, dict[str, Any] | None]]:
        """Yield each row with its prediction, in order; None for an empty row of a file."""
        return pair_with_predictions(self.check_rows(given), self.required, self.predictor.predict_rows)
