"""Seconds that each command takes where there is next to nothing to do: the best of some turns."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from cpu_parts.evaluation import file, recipe
from cpu_parts.records import Settings, emit

TURNS, HEAVY = 5, 2
"""Turns of a command, and of one that loads torch."""
FEW = 20
"""Rows that the run is evaluated on."""


def run(settings: Settings) -> None:
    """Finish a small run, then measure every command on it, next to Python alone."""
    folder = settings.work / f"start-{settings.round}"
    folder.mkdir()
    path, runs = folder / "recipe.yaml", ["--runs", str(folder / "runs")]
    few = folder / "few.jsonl"
    few.write_text("".join(file(settings).open(encoding="utf-8").readlines()[:FEW]), encoding="utf-8")
    content = recipe(settings, few)
    content["stages"]["again"] = content["stages"]["score"] | {"resamples": 100}
    path.write_text(json.dumps(content), encoding="utf-8")
    _seconds(["-m", "hfpipe", "run", str(path), *runs])
    run_folder = str(folder / "runs" / "evaluation")
    commands = {
        "python -c pass": ["-c", "pass"],
        "python -c 'import torch'": ["-c", "import torch"],
        "python -c 'from transformers import Trainer'": ["-c", "from transformers import Trainer"],
        "hfpipe --help": ["-m", "hfpipe", "--help"],
        "hfpipe schema": ["-m", "hfpipe", "schema"],
        "hfpipe check": ["-m", "hfpipe", "check", str(path)],
        "hfpipe plan": ["-m", "hfpipe", "plan", str(path), *runs],
        "hfpipe run, all done": ["-m", "hfpipe", "run", str(path), *runs],
        "hfpipe report": ["-m", "hfpipe", "report", str(path), *runs],
        "hfpipe compare": ["-m", "hfpipe", "compare", f"{run_folder}:score", f"{run_folder}:again"],
        "hfpipe predict": ["-m", "hfpipe", "predict", f"{run_folder}:train", "A river in Europe."],
    }
    for name, arguments in commands.items():
        first = _seconds(arguments)
        turns = 1 if settings.toy else HEAVY if first > 2 else TURNS
        best = min([first, *(_seconds(arguments) for _ in range(turns - 1))])
        emit("start", command=name, round=settings.round, seconds=round(best, 2), turns=turns)


def _seconds(arguments: list[str]) -> float:
    """Return the wall time of one process. Raises RuntimeError when it fails."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-1500:]}")
    return time.perf_counter() - started
