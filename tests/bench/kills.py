"""Kills a run at random moments, resumes it, and compares all that it leaves with a run without kills.

`python tests/bench/kills.py [--processes 2] [--seconds 140] [--seed 1] [--kills 3]` repeats this for that
many seconds: a run is killed by SIGKILL up to three times, each time at a random moment of the stages that
are left, then resumed to its end. With two processes a kill hits both, or one of them, whose end the other
notices. It prints a line for each run, and a sum. Weights, scores, predictions and mean losses have to be
equal bit for bit, and no scratch may stay.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import processes
import small

import hfpipe

STAGES = ("pretrain", "topics")
ENDING = 10.0
"""Seconds after which the other process is killed as well, as a launcher would do at once."""


def recipe(folder: Path) -> Path:
    """Write a recipe with dropout, many checkpoints and an evaluation in its trainings."""
    made = small.recipe("bert", max_steps=24, save_steps=3, eval_steps=8, logging_steps=5)
    for stage in ("pretrain", "topics"):
        made["stages"][stage]["training"] |= {"eval_strategy": "steps"}
    made["stages"]["pretrain"]["model"] |= {"hidden_dropout_prob": 0.1}
    return small.write(folder, made)


def outcome(path: Path, runs: Path) -> dict[str, Any]:
    """Return what a finished run left: digests, scores and losses."""
    run = hfpipe.open(path, runs)
    reports = {stage: run.reports[stage].model_dump() for stage in STAGES}
    files = [run.folders[stage] / "model.safetensors" for stage in STAGES]
    files.append(run.folders["score"] / "predictions.parquet")
    return {
        **{f"{file.parent.name.partition('-')[0]}/{file.name}": digest(file) for file in files},
        "scores": [
            (score.metric, score.value, score.low, score.high) for score in run.reports["score"].scores
        ],
        "train_loss": [small.train_loss(report) for report in reports.values()],
        "history": [small.history(report) for report in reports.values()],
        "scratch": [str(found.relative_to(runs)) for found in runs.rglob(".work")],
    }


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


class Runs:
    """Starts the processes of a run, forked from one that has all imports."""

    def __init__(self, path: Path, folder: Path, world: int) -> None:
        self._path, self._world = path, world
        self._config = processes.config_file(folder, "ddp-cpu", world)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(processes.PRELOADED)

    def start(self, runs: Path) -> list[Any]:
        """Start a run."""
        port, log = self._context.Value("i", 0), runs.with_suffix(".log")
        self._port = port  # which is removed from the system with the last reference here
        started = [
            self._context.Process(
                target=processes._process,
                args=(rank, self._world, port, self._config, self._path, runs, log),
            )
            for rank in range(self._world)
        ]
        for process in started:
            process.start()
        return started

    def finish(self, runs: Path) -> float:
        """Run to the end; return the seconds. Raises AssertionError with the log when it fails."""
        began = time.monotonic()
        started = self.start(runs)
        for process in started:
            process.join(processes.LIMIT)
        codes = [process.exitcode for process in started]
        for process in started:
            process.kill()
        assert codes == [0] * self._world, (codes, runs.with_suffix(".log").read_text(encoding="utf-8"))
        return time.monotonic() - began

    def kill(self, runs: Path, after: float, victim: int | None) -> bool:
        """Kill a run, or one of its processes, after some seconds; tell whether it still ran."""
        started = self.start(runs)
        deadline = time.monotonic() + after
        while time.monotonic() < deadline and any(process.exitcode is None for process in started):
            time.sleep(0.001)
        hit = all(process.exitcode is None for process in started)
        for number, process in enumerate(started):
            if victim in (None, number):
                process.kill()
        for process in started:
            process.join(ENDING)
            process.kill()  # as a launcher does, where the other had not yet heard of the one that was killed
            process.join()
        return hit


def prepared(straight: Path, runs: Path) -> None:
    """Copy the data and the tokenizer of a finished run, so that trainings are what is killed."""
    shutil.rmtree(runs, ignore_errors=True)
    (runs / "small").mkdir(parents=True)
    for folder in (straight / "small").glob("*-*"):
        if folder.name.startswith(("wiki-", "words-")):
            shutil.copytree(folder, runs / "small" / folder.name)


def main() -> int:
    """Run the measurement; return 1 when anything differed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=140.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    until, draw, differing = time.monotonic() + given.seconds, random.Random(given.seed), []  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="hfpipe-kills-") as scratch:
        folder = Path(scratch)
        path = recipe(folder)
        runs = Runs(path, folder, given.processes)
        runs.finish(folder / "straight")
        prepared(folder / "straight", folder / "timed")
        longest = runs.finish(folder / "timed")
        expected = outcome(path, folder / "straight")
        assert outcome(path, folder / "timed") == expected, "two runs that were not killed differ"
        kills = count = 0
        print(f"{given.processes} processes, {longest:.1f} s without a kill", flush=True)
        while time.monotonic() + 2 * longest < until:
            prepared(folder / "straight", folder / "killed")
            moments = []
            for _ in range(draw.randint(1, given.kills)):
                victim = draw.choice([None, *range(given.processes)]) if given.processes > 1 else None
                after = draw.uniform(0.0, longest)
                if runs.kill(folder / "killed", after, victim):
                    moments.append(f"{after:.2f} s {'all' if victim is None else f'process {victim}'}")
            runs.finish(folder / "killed")
            found = outcome(path, folder / "killed")
            wrong = [name for name in expected if found[name] != expected[name]]
            kills, count = kills + len(moments), count + 1
            differing += wrong
            print(f"killed after {', '.join(moments) or 'nothing'}: {wrong or 'equal'}", flush=True)
    what = f"{kills} kills in {count} runs of {given.processes} processes, seed {given.seed}"
    print(f"{what}: {differing or 'all equal'}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
