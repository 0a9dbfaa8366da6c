"""Types of what passes between the parts, for annotations: import them under `TYPE_CHECKING`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Rows = Mapping[str, Sequence[Any]]
    """Rows of a data set by column: equally long sequences."""
    Columns = Mapping[str, np.ndarray]
    """What an evaluator returns for a batch: arrays with one entry an example."""
    Batch = dict[str, torch.Tensor]
    """Inputs of a model by argument name."""
