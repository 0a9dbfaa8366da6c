"""Core interfaces: settings, stages and the context of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from hfpipe.errors import Problem
from hfpipe.interruption import StopRequest
from hfpipe.report import DataFacts, Report


class Settings(BaseModel):
    """Validated, frozen settings; field names are keys of the recipe, and their docstrings the reference."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Advance(Protocol):
    """Callback that reports progress, with an optional note such as `loss 2.31`."""

    def __call__(self, done: int, note: str = "") -> None:
        """Advance by `done` units; the note is shown until the next one."""


Progress = Callable[[str, "int | None"], AbstractContextManager[Advance]]
"""`with progress("reading", total) as advance: advance(n)`; shows nothing for a small total or in a pipe."""


RunAtOnce = Callable[[Sequence[Path]], "list[str | None]"]
"""Runs prepared stage folders in other processes; returns why each failed, None if it did not.

Raises StageError if a process was lost, and Interrupted if a signal requested a stop.
"""


@contextmanager
def show_no_progress(_: str, __: int | None) -> Iterator[Advance]:
    """Show no progress."""

    def advance(done: int, note: str = "") -> None:
        return

    yield advance


@dataclass(frozen=True)
class RunContext:
    """What a stage receives in addition to its settings."""

    name: str
    """The stage's name in the recipe."""
    folder: Path
    """Output folder of the stage; `folder / ".work"` is temporary and removed when the stage is done."""
    base: Path
    """Folder of the recipe; relative paths are resolved against it."""
    seed: int
    inputs: Mapping[str, Path]
    """Name of an upstream stage → its finished folder."""
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    """Whether a signal requested the run to stop."""
    run_at_once: RunAtOnce | None = None
    """Runs parts of a stage's work concurrently; None if all work is done in this process."""

    @property
    def work(self) -> Path:
        """Temporary folder that survives an interrupted run and is removed when the stage is done."""
        return self.folder / ".work"


class Stage(Settings, ABC):
    """One step of a recipe: settings, and a `run` method that writes a folder and returns a report."""

    version: ClassVar[int]
    """Incremented when the same settings produce a different output."""
    distributed: ClassVar[bool] = False
    """Whether `run` is called in every process under Accelerate, with one process per device."""
    immediate: ClassVar[bool] = False
    """Whether `run` takes negligible time, for example because it only summarizes reports."""
    kind: str
    """Kind of the stage."""

    def expand(self, name: str, above: Mapping[str, Stage]) -> dict[str, Stage]:
        """Return the stages that this one expands to, by name, in the order in which they run.

        The last has the name of this one; by default it is this one, and there are no others.
        """
        return {name: self}

    def make_table(
        self, combinations: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Mapping[str, Any]]
    ) -> Stage | None:
        """Return the stage with the table of scores of the copies that a matrix makes of this stage, if any.

        `combinations` maps each copy to its axes and their values, `settings` to its varied settings.
        """
        return None

    def get_seed(self, seed: int) -> int:
        """Return the seed of the stage; `seed` is that of the recipe."""
        return seed

    def check(
        self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts], base: Path
    ) -> Iterator[Problem]:
        """Yield the problems between this stage and its upstream stages, with paths relative to the stage.

        `facts` has an entry for each finished data set stage; `base` is the folder of the recipe.
        """
        return iter(())

    def resolve(self, above: Mapping[str, Stage]) -> Stage:
        """Return the stage with those settings filled in that depend on the upstream stages."""
        return self

    def find_neutral(self) -> dict[str, Any]:
        """Return the settings that cannot change the result: path → the value that replaces it in the key.

        None removes a setting from the key. By default these are the fields that declare
        `json_schema_extra={"changes_result": False}`, each replaced by its default.
        """
        extras = {name: field.json_schema_extra for name, field in type(self).model_fields.items()}
        return {
            name: type(self).model_fields[name].default
            for name, extra in extras.items()
            if isinstance(extra, dict) and extra.get("changes_result") is False
        }

    def check_ahead(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[Problem]:
        """Yield further problems whose check needs heavy libraries, which `check` may not import.

        Before a run starts a stage, it calls this method of every remaining stage.
        """
        return iter(())

    def list_notices(self, ctx: RunContext, *, alone: bool) -> Iterator[str]:
        """Yield a line for each setting without effect; `alone` is whether there is only one process."""
        return iter(())

    def plan_notes(self, above: Mapping[str, Stage], facts: Mapping[str, DataFacts]) -> Iterator[str]:
        """Yield lines about the stage for a plan, before it runs, based on the finished data sets."""
        return iter(())

    def prepare(self, ctx: RunContext) -> None:
        """Do the work that needs one process, before a process group exists; may be called more than once."""
        return

    @abstractmethod
    def run(self, ctx: RunContext) -> Report:
        """Write the stage's files to `ctx.folder`; the report of the main process is kept.

        `ctx.work` is removed when the main process returns; it must wait for processes that still read it.
        """
