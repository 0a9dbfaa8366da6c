"""The `pretrain` and `finetune` stages: one piece of code that trains a model for a task."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny

from hfpipe.contract import RunContext, Settings, Stage, Task
from hfpipe.places import DataPlace, ModelPlace, TokenizerPlace
from hfpipe.report import Report


class EarlyStopping(Settings):
    """Stops when the validation metric (`metric_for_best_model`) has not improved."""

    patience: int = Field(default=3, ge=1)
    """Evaluations without improvement before training stops."""
    threshold: float = Field(default=0.0, ge=0)
    """How much counts as an improvement."""


class _Train(Stage):
    """Fields and behaviour of both training kinds."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    task: SerializeAsAny[Task]
    """What is learned: a task's name, or a mapping with `kind` and its options."""
    data: DataPlace
    """Data set with a train split; a validation split is evaluated where there is one."""
    model: ModelPlace | dict[str, Any]
    """A place to go on from, or a mapping (`type` and config entries) for a model from nothing."""
    tokenizer: TokenizerPlace | None = None
    """Tokenizer; by default the one that lies with the model."""
    training: dict[str, Any] = {}
    """Transformers' TrainingArguments by name, and `budget`, `bf16: auto`, `compile: auto`."""
    early_stopping: EarlyStopping | None = None
    """Stop early; needs a validation split."""
    trust_remote_code: bool = False
    """Run the code that comes with a model from the Hub."""

    def run(self, ctx: RunContext) -> Report:
        raise NotImplementedError


class Pretrain(_Train):
    """Trains on raw text: admits the pretraining tasks."""

    kind: Literal["pretrain"] = "pretrain"


class Finetune(_Train):
    """Trains for a use: admits every task."""

    kind: Literal["finetune"] = "finetune"
