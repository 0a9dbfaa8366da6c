"""Measures how far the numbers of each task are apart that should not depend on how a recipe is run.

`python tests/bench/invariance.py [--tasks TASK…]` runs the small recipe of each task in `tests/cases.py`: it
trains a model of two layers on real text and evaluates it with batches of 64, 1 and 7 rows, then lets
`hfpipe doctor` compare trainings of the same stage. It takes three to five minutes on two cores, and needs no
network. Measurements go to `invariance.jsonl` in the folder that the environment variable `OUT` names, else
in `tests/bench/results/`, a line for each task. The table of all of them is printed at the end, and
`--write-table` puts it into `docs/promises.md`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import small
from cases import CASES, recipe

import hfpipe

ONLY = ("accumulation", "processes", "packing", "resume")
"""Comparisons of the doctor."""
SIZES = (64, 1, 7)
"""Rows of a batch of an evaluation; the first is compared with the others."""
HEAD = (
    "task",
    "accumulation 1 v 4",
    "processes 1 v 2",
    "packed v separate documents",
    "resumed v straight",
    "evaluation: batches of 64 v 1 and 7",
)
MANUAL = small.ROOT / "docs" / "promises.md"
BEGIN, END = "<!-- invariance: begin -->", "<!-- invariance: end -->"


def measure_task(name: str, folder: Path, only: Sequence[str] = ONLY) -> dict[str, Any]:
    """Return the deviations of a task; `folder` takes its recipe and its run.

    A deviation of a training is that of its loss and that of its gradient, each relative; of one that is
    resumed, that of its loss and that of its weights after four steps.
    """
    loaded = hfpipe.load(small.write(folder, recipe(name, batch_sizes=SIZES)))
    run = hfpipe.run(loaded, folder / "runs", say=lambda _: None)
    found = hfpipe.doctor(loaded, f"{name}-learn", folder / "runs", only=list(only))
    return {
        "task": name,
        "trainings": {
            each.check: {"reason": each.reason, "failure": each.failure, "passed": each.passed}
            | {"loss": each.loss, "gradient": each.gradient}
            for each in found
        },
        "evaluation": max(distance_of_scores(run, name, size) for size in SIZES[1:]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine(),
    }


def distance_of_scores(run: hfpipe.Run, name: str, size: int) -> float:
    """Return the largest difference of a score or of a bound of its interval, relative where above 1."""
    first, other = (_scores(run, f"{name}-score-{rows}") for rows in (SIZES[0], size))
    assert first.keys() == other.keys()
    pairs = [pair for metric in first for pair in zip(first[metric], other[metric], strict=True)]
    return max(abs(one - two) / max(1.0, abs(one)) for one, two in pairs)


def _scores(run: hfpipe.Run, stage: str) -> dict[str, tuple[float, float, float]]:
    return {score.metric: (score.value, score.low, score.high) for score in run.reports[stage].scores}


def describe_machine() -> str:
    """Return processor, cores and versions, as the manual gives them."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (
        found := re.search(r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8"))
    ):
        processor = found[1]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"


def table(measured: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of the manual, and under it when and where it was measured."""
    entries = sorted(measured, key=lambda entry: entry["task"])
    rows = [HEAD, ("---",) * len(HEAD), *(_row(entry) for entry in entries)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    when = {f"{entry['date']}, {entry['machine']}" for entry in entries}
    return "\n".join([*lines, "", *(f"Measured on {each}." for each in sorted(when))])


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    trainings = [entry["trainings"].get(check, {"reason": "not measured"}) for check in HEAD[1:5]]
    return f"`{entry['task']}`", *map(_cell, trainings), _figure(entry["evaluation"])


def _cell(found: Mapping[str, Any]) -> str:
    if found["reason"]:
        known = {"not measured": "not measured", "does not pack": "not packed", "no option": "always packed"}
        return next((text for part, text in known.items() if part in found["reason"]), "not comparable")
    if found["failure"]:
        return "fails"
    figures = f"{_figure(found['loss'])}, {_figure(found['gradient'])}"
    return figures if found["passed"] else f"{figures} (too far)"


def _figure(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"


def read_measured(file: Path) -> dict[str, dict[str, Any]]:
    """Return what was measured before: task → its line."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {entry["task"]: entry for entry in map(json.loads, lines)}


def write_table(text: str, manual: Path) -> None:
    """Put the table between its two marks in a page of the manual."""
    before, _, rest = manual.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    manual.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """Measure, keep and print; 1 if something is too far apart or fails."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--tasks", nargs="*", choices=sorted(CASES), default=sorted(CASES), metavar="TASK")
    parser.add_argument("--write-table", action="store_true", help="put the table into docs/promises.md")
    options = parser.parse_args()
    file = Path(os.environ.get("OUT", Path(__file__).parent / "results")) / "invariance.jsonl"
    measured = read_measured(file)
    for name in options.tasks:
        with tempfile.TemporaryDirectory(prefix="hfpipe-invariance-") as folder:
            measured[name] = measure_task(name, Path(folder))
        lines = [json.dumps(measured[task]) for task in sorted(measured)]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = table(measured.values())
    print(text)
    if options.write_table:
        write_table(text, MANUAL)
    trainings = [each for entry in measured.values() for each in entry["trainings"].values()]
    return int(any(each["passed"] is False for each in trainings))


if __name__ == "__main__":
    raise SystemExit(main())
