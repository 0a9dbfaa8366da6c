"""The `distillation` of a finetune stage: temperature and weight of the soft targets; imports no torch."""

from __future__ import annotations

from pydantic import Field

from hfpipe.contract import Settings


class DistillationSettings(Settings):
    """How a model learns from the probabilities of its teachers."""

    temperature: float = Field(default=2.0, gt=0)
    """The logits of teacher and student are divided by it; values above 1 increase small probabilities."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Weight of the soft targets in the loss; the weight of the labels is `1 - weight`."""
