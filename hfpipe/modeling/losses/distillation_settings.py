"""The `distillation` of a finetune stage: how much its teachers count; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from hfpipe.contract import Settings
from hfpipe.errors import Problem

if TYPE_CHECKING:
    from hfpipe.report import DataFacts
    from hfpipe.task import TaskConfig


class DistillationSettings(Settings):
    """How a model learns from the probabilities of its teachers."""

    temperature: float = Field(default=2.0, gt=0)
    """Number that the logits of teacher and student are divided by; above 1, small probabilities gain."""
    weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the soft targets in the loss; the labels have the rest."""


def check_teachers(task: TaskConfig, facts: DataFacts | None, *, weighted: bool) -> Iterator[Problem]:
    """Yield why a stage can have no teachers, with paths relative to the stage."""
    if task.auto_class != "AutoModelForSequenceClassification":
        yield Problem(
            f"{task.kind} cannot have a teacher; text-classification can: delete teacher", ("teacher",)
        )
    elif facts is not None and facts.columns.get(task.weighted_column or "") == "float":
        message = (
            f"column {task.weighted_column!r} holds numbers, which have no probabilities; delete teacher"
        )
        yield Problem(message, ("teacher",))
    if weighted:
        yield Problem("teacher and loss exclude each other; delete one of them", ("loss",))
