"""The progress of a run, read from its folders, whether or not a process is running it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

from hfpipe import number_format
from hfpipe.runner import PlannedStage
from hfpipe.store.artifacts import read_metrics
from hfpipe.store.store import Store, is_done, read_report

LOG = 2_000
"""Number of bytes at the end of a stage's log that are searched for its last line."""


PREFIX = re.compile(r"^\S+ \S+ \[\d+\] [A-Z]+ [\w.]+: ")
"""Time, process and module at the beginning of a line of the log."""


@dataclass(frozen=True)
class StageStatus:
    """The progress of one stage."""

    name: str
    kind: str
    state: Literal["done", "running", "interrupted", "waiting"]
    text: str
    """Its summary when it is done, otherwise its progress."""
    seconds: float | None = None
    """Wall time of a finished stage, or since a running stage was started."""
    step: int = 0
    steps: int = 0
    """Optimizer steps so far and in total; 0 before training begins."""
    losses: list[float] = field(default_factory=list)
    """Logged losses, in order."""

    @property
    def share(self) -> float | None:
        """Fraction of the training that is done, from 0 to 1; None before training begins."""
        return self.step / self.steps if self.steps else None


def read_status(stage: PlannedStage) -> StageStatus:
    """Return the current progress of a stage of a plan."""
    name, kind, folder = stage.name, stage.stage.kind, stage.folder
    if is_done(folder):
        report = read_report(folder)
        return StageStatus(name, kind, "done", report.summary, report.seconds)
    if not (folder / "stage.json").is_file():
        return StageStatus(name, kind, "waiting", "")
    state: Literal["running", "interrupted"] = (
        "running" if Store(folder.parent).find_holder(folder) else "interrupted"
    )
    seconds = time.time() - (folder / "stage.json").stat().st_mtime if state == "running" else None
    log = read_metrics(folder)
    trained = [entry for entry in log if "loss" in entry and "steps" in entry]
    if not trained:
        return StageStatus(name, kind, state, _read_last_line(folder / "stage.log"), seconds)
    last = trained[-1]
    return StageStatus(
        name,
        kind,
        state,
        _describe(log, trained, left=state == "running"),
        seconds,
        step=last["step"],
        steps=last["steps"],
        losses=[entry["loss"] for entry in trained if entry["loss"] is not None],
    )


def _describe(log: list[dict[str, Any]], trained: list[dict[str, Any]], *, left: bool) -> str:
    """Return the latest numbers of a training as a phrase; with `left`, also the remaining time."""
    last = trained[-1]
    parts = [f"step {last['step']:,} of {last['steps']:,}"]
    parts += [f"loss {number_format.format_number(last['loss'])}"] if last["loss"] is not None else []
    validated = [entry["eval_loss"] for entry in log if entry.get("eval_loss") is not None]
    parts += [f"validation loss {number_format.format_number(validated[-1])}"] if validated else []
    if "tokens_per_second" in last:
        parts.append(f"{number_format.format_count(last['tokens_per_second'])} tokens/s")
    if "memory_bytes" in last:
        parts.append(number_format.format_bytes(last["memory_bytes"]))
    seconds = _estimate_seconds_left(trained)
    if left and seconds is not None:
        parts.append(f"about {number_format.format_duration(seconds)} left")
    return ", ".join(parts)


def _estimate_seconds_left(trained: list[dict[str, Any]]) -> float | None:
    """Return the remaining time at the rate of the last steps; None as long as it is unknown."""
    timed = [entry for entry in trained if "time" in entry][-10:]
    paces = [
        (entry["time"] - before["time"]) / (entry["step"] - before["step"])
        for before, entry in pairwise(timed)
        if entry["step"] > before["step"]
    ]
    if not paces:
        return None
    last, pace = timed[-1], median_low(paces)  # a mean would include the time of an interruption
    spent = time.time() - last["time"]
    return max(0.0, pace * (last["steps"] - last["step"]) - spent)


def _read_last_line(log: Path) -> str:
    """Return the last line of a stage's log, without its prefix."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return number_format.make_visible(PREFIX.sub("", lines[-1]))[:160] if lines else ""
