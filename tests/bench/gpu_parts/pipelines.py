"""Starts `hfpipe run` in processes of its own, and reads what the stages reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts.records import ROOT

CPU_ONLY = {"CUDA_VISIBLE_DEVICES": ""}
ALONE = {"NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
"""For one launched process on a machine that may have no other network interface."""


@dataclass(frozen=True)
class Done:
    """A finished process."""

    code: int
    seconds: float
    output: str

    @property
    def reason(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self.output.strip().splitlines()[-6:])[-900:]


def command(recipe: Path, runs: Path, *more: str) -> list[str]:
    """Return the command that runs a recipe with this interpreter."""
    return [sys.executable, "-m", "hfpipe", "run", str(recipe), "--runs", str(runs), *more]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a run: this repository's hfpipe, and threads that leave room for others."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    threads = os.environ.get("OMP_NUM_THREADS", "4")
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "CI": "true", **more}


def run(
    recipe: Path, runs: Path, *more: str, environ: dict[str, str] | None = None, limit: float = 300
) -> Done:
    """Run a recipe to its end; a process that outlasts `limit` seconds is ended, its code is then 124."""
    started = time.monotonic()
    try:
        found = subprocess.run(
            command(recipe, runs, *more),
            env=environment(**(environ or {})),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=max(1.0, limit),
        )
        code, output = found.returncode, found.stdout
    except subprocess.TimeoutExpired as error:
        code, output = 124, f"{error.output or ''}\ntook longer than {limit:.0f} s"
    print(f"--- {' '.join(more) or recipe.stem} {runs.name}: exit code {code}\n{output}", flush=True)
    return Done(code, round(time.monotonic() - started, 1), output)


def folder(runs: Path, stage: str) -> Path:
    """Return the folder of a stage, of the only recipe that ran into `runs`. Raises OSError without one."""
    found = sorted(runs.glob(f"*/{stage}-*"))
    if not found:
        raise FileNotFoundError(f"{runs}: there is no stage {stage}")
    return found[0]


def report(runs: Path, stage: str) -> dict[str, Any]:
    """Return the report of a finished stage. Raises OSError when it is not finished."""
    return json.loads((folder(runs, stage) / "report.json").read_text(encoding="utf-8"))


def losses(runs: Path, stage: str) -> list[float]:
    """Return the loss of every step that was logged."""
    return [entry["loss"] for entry in report(runs, stage)["facts"]["history"] if "loss" in entry]


def scores(runs: Path, stage: str) -> dict[str, dict[str, float]]:
    """Return the scores of an evaluate stage, each with the ends of its interval."""
    return {
        score["metric"]: {name: score[name] for name in ("value", "low", "high")}
        for score in report(runs, stage)["scores"]
    }


def seconds(path: Path) -> float:
    """Return the wall time of a stage by its report."""
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"])
