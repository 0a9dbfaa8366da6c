"""Interface of a loss that replaces the loss of the task in training, but not in validation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hfpipe.runtime import Objective

if TYPE_CHECKING:
    from hfpipe.types import Batch


class TrainingLoss(Objective):
    """A loss that depends on more than the batch of a task: on weights of rows, or on teachers."""

    @abstractmethod
    def add_entries(self, batch: Batch, examples: Sequence[Mapping[str, Any]]) -> Batch:
        """Return the batch of some examples, each with its `index`, and the entries that the loss reads."""
