"""The `distillation` of a finetune stage: how much its teachers count; imports no torch."""

from __future__ import annotations

from pydantic import Field

from hfpipe.contract import Settings


class DistillationSettings(Settings):
    """How a model learns from the probabilities of its teachers."""

    temperature: float = Field(default=2.0, gt=0)
    """Number that the logits of teacher and student are divided by; above 1, small probabilities gain."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the soft targets in the loss; the labels have the rest."""
