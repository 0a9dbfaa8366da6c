"""How far a run is, read from its folders: another process may be running it, or none."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfpipe import number_format
from hfpipe.runner import PlannedStage
from hfpipe.store.artifacts import read_metrics
from hfpipe.store.store import Store, done, read_report

LOG = 2_000
"""Bytes at the end of a stage's log in which its last line is looked for."""


PREFIX = re.compile(r"^\S+ \S+ \[\d+\] [A-Z]+ [\w.]+: ")
"""Time, process and module before what a line of the log says."""


@dataclass(frozen=True)
class StageStatus:
    """How far one stage is."""

    name: str
    kind: str
    state: Literal["done", "running", "interrupted", "waiting"]
    text: str
    """What it made, or how it goes."""
    seconds: float | None = None
    """Wall time: of the whole stage when it is done, since it was started when it runs."""
    step: int = 0
    steps: int = 0
    """Optimizer steps so far and of the whole training; 0 when it does not train yet."""
    losses: list[float] = field(default_factory=list)
    """Losses that were logged, in order."""

    @property
    def share(self) -> float | None:
        """How much of the training is done, from 0 to 1; None when it does not train yet."""
        return self.step / self.steps if self.steps else None


def read_status(stage: PlannedStage) -> StageStatus:
    """Return how far a stage of a plan is at this moment."""
    name, kind, folder = stage.name, stage.stage.kind, stage.folder
    if done(folder):
        report = read_report(folder)
        return StageStatus(name, kind, "done", report.summary, report.seconds)
    if not (folder / "stage.json").is_file():
        return StageStatus(name, kind, "waiting", "")
    state: Literal["running", "interrupted"] = (
        "running" if Store(folder.parent).holder(folder) else "interrupted"
    )
    seconds = time.time() - (folder / "stage.json").stat().st_mtime if state == "running" else None
    log = read_metrics(folder)
    trained = [entry for entry in log if "loss" in entry and "steps" in entry]
    if not trained:
        return StageStatus(name, kind, state, _last_line(folder / "stage.log"), seconds)
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
    """Return the newest numbers of a training in words, and how long it will still take where it runs."""
    last = trained[-1]
    parts = [f"step {last['step']:,} of {last['steps']:,}"]
    parts += [f"loss {number_format.number(last['loss'])}"] if last["loss"] is not None else []
    validated = [entry["eval_loss"] for entry in log if entry.get("eval_loss") is not None]
    parts += [f"validation loss {number_format.number(validated[-1])}"] if validated else []
    if "tokens_per_second" in last:
        parts.append(f"{number_format.count(last['tokens_per_second'])} tokens/s")
    if "memory_bytes" in last:
        parts.append(number_format.memory(last["memory_bytes"]))
    seconds = _seconds_left(trained)
    if left and seconds is not None:
        parts.append(f"about {number_format.duration(seconds)} left")
    return ", ".join(parts)


def _seconds_left(trained: list[dict[str, Any]]) -> float | None:
    """Return how long the steps to come take at the pace of the last ones; None while that is not known."""
    timed = [entry for entry in trained if "time" in entry][-10:]
    if len(timed) < 2 or timed[-1]["step"] <= timed[0]["step"]:
        return None
    first, last = timed[0], timed[-1]
    pace = (last["time"] - first["time"]) / (last["step"] - first["step"])
    spent = time.time() - last["time"]
    return max(0.0, pace * (last["steps"] - last["step"]) - spent)


def _last_line(log: Path) -> str:
    """Return the last line of a stage's log; the time before it is left out."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return number_format.visible(PREFIX.sub("", lines[-1]))[:160] if lines else ""
