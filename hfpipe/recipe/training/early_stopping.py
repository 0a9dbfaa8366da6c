"""The `early_stopping` of a training stage."""

from __future__ import annotations

from pydantic import Field

from hfpipe.contract import Settings


class EarlyStopping(Settings):
    """Stops when the validation metric (`metric_for_best_model`) has not improved."""

    patience: int = Field(default=3, ge=1)
    """Evaluations without improvement before training stops."""
    threshold: float = Field(default=0.0, ge=0)
    """Smallest change that counts as an improvement."""
