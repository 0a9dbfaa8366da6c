"""Core interfaces: settings, stages and the context of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from hfpipe.errors import Problem
from hfpipe.interruption import StopRequest
from hfpipe.report import DataFacts, Report

if TYPE_CHECKING:
    pass


class Settings(BaseModel):
    """Checked, frozen settings; the fields are the recipe's keys and their docstrings its reference."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Advance(Protocol):
    """Tells how much more is done, and optionally how it goes, as `loss 2.31`."""

    def __call__(self, done: int, note: str = "") -> None:
        """Count `done` more; the note stays until the next one."""


Progress = Callable[[str, "int | None"], AbstractContextManager[Advance]]
"""`with progress("reading", total) as advance: advance(n)`; shows nothing when total is small or piped."""


@dataclass(frozen=True)
class RunContext:
    """What a stage is given beside its settings."""

    name: str
    """The stage's name in the recipe."""
    folder: Path
    """Where the stage's files belong; `folder / ".work"` is scratch that the store removes at the end."""
    base: Path
    """The recipe's folder, against which relative paths are read."""
    seed: int
    inputs: Mapping[str, Path]
    """Name of a stage above → its finished folder."""
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    """Whether a signal asked the run to stop."""

    @property
    def work(self) -> Path:
        """Scratch that survives a kill and is removed once the stage is done."""
        return self.folder / ".work"


class Stage(Settings, ABC):
    """One step of a recipe: settings that know how to turn inputs into a folder and a report."""

    version: ClassVar[int]
    """Raised when the same settings come to mean another output."""
    distributed: ClassVar[bool] = False
    """Whether `run` is called in every process, one a device, under Accelerate."""
    kind: str
    """Which kind of stage this is."""

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        """Yield what is wrong between this stage and the ones above it, paths relative to the stage.

        `facts` has an entry for each data set stage that is already done; `base` is the recipe's folder.
        """
        return iter(())

    def resolved(self, above: Mapping[str, Stage]) -> Stage:
        """Return the stage with what only the stages above tell about its settings."""
        return self

    def neutral(self) -> dict[str, Any]:
        """Return the settings that cannot change the result, by path, with what stands for them in the key.

        None for one that the key does not hold at all. By default the fields that declare
        `json_schema_extra={"changes_result": False}`, each with its default.
        """
        extras = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        return {
            name: type(self).model_fields[name].default
            for name, extra in extras.items()
            if isinstance(extra, dict) and extra.get("changes_result") is False
        }

    def check_ahead(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[Problem]:
        """Yield what else is wrong, where telling takes the heavy libraries that `check` may not import.

        A run asks it of every stage to come before each one that it starts.
        """
        return iter(())

    def notices(self, ctx: RunContext, *, alone: bool) -> Iterator[str]:
        """Yield a line for each setting without effect here; `alone` is whether one process runs it."""
        return iter(())

    def plan_notes(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[str]:
        """Yield a line for what a plan says of the stage before it runs, from the data sets that are done."""
        return iter(())

    def prepare(self, ctx: RunContext) -> None:
        """Do the work of one process, before any process group exists; may be called again."""
        return

    @abstractmethod
    def run(self, ctx: RunContext) -> Report:
        """Write the stage's files into `ctx.folder`; the first process' report is kept.

        `ctx.work` is cleared once the first process returns, so it waits for those that still read there.
        """
