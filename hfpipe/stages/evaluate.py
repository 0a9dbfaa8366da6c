"""The `evaluate` stage: scores of a model and of its baselines over one split, in one pass."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, SerializeAsAny

from hfpipe.contract import RunContext, Settings, Stage, Task
from hfpipe.places import DataPlace, ModelPlace, Place
from hfpipe.report import Report


class Bound(Settings):
    """What a score must reach for the stage to succeed."""

    min: float | None = None
    """The score may not be lower."""
    max: float | None = None
    """The score may not be higher."""


class Evaluate(Stage):
    """Measures a model on one split, beside trivial baselines and other models."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    kind: Literal["evaluate"] = "evaluate"
    model: ModelPlace
    """The model to measure."""
    data: DataPlace
    """Data set that has the split."""
    split: str = "test"
    """Split to measure on."""
    task: SerializeAsAny[Task] | None = None
    """What the model does; by default what its stage trained it for."""
    baselines: list[Place] = []
    """Trivial ones by name (`majority`, `tfidf`), any other model by its place."""
    require: dict[str, Bound] = {}
    """Metric → bounds; the stage fails when a score misses them."""
    batch_size: int = Field(default=64, ge=1)
    """Examples a forward pass on each device; changes speed and memory, not scores."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples behind each interval."""
    trust_remote_code: bool = False
    """Run the code that comes with a model from the Hub."""

    def run(self, ctx: RunContext) -> Report:
        raise NotImplementedError
