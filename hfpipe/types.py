"""Shared types; those of arrays and tensors exist only for type checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import torch

    Rows = Mapping[str, Sequence[Any]]
    """Rows of a data set by column: equally long sequences."""
    Columns = Mapping[str, np.ndarray]
    """Result of an evaluator for a batch: arrays with one entry per example."""
    Batch = dict[str, torch.Tensor]
    """Inputs of a model by argument name."""


class Counted(NamedTuple):
    """A loss that is summed over micro-batches and processes and divided only at the end.

    A task with several objectives has one entry per objective, shape (objectives,): each sum is divided by
    its own count, and the resulting means are added.
    """

    total: torch.Tensor
    """Sum over the targets, float32, 0-d, differentiable."""
    targets: torch.Tensor
    """Number of targets, int64, 0-d."""
