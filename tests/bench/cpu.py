"""How fast hfpipe is on this processor with its defaults, next to Transformers' Trainer and plain loops.

Every contender is measured in a process of its own, the contenders of a work in turn, in several rounds.
Needs no network. See README.md in this folder; `--size toy` tries the script itself.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's hfpipe, installed or not

from cpu_parts import tables
from cpu_parts.records import CPU, LOG, Settings, emit, read
from parts.processes import OFFLINE, ended, logged
from parts.records import RESULTS, ROOT, lines_of
from parts.timing import profiles_in

TRAIN = ("hfpipe", "trainer", "trainer-fast")
PARTS: dict[str, tuple[str, ...]] = {
    "peak": ("torch",),
    "masked-lm-4x256": TRAIN,
    "causal-lm-6x384": (*TRAIN, "loop", "loop-compiled"),
    "classification-minilm": (*TRAIN, "trainer-eager"),
    "seq2seq-4x256": (*TRAIN, "trainer-eager"),
    "masked-lm-6x512": TRAIN,
    "checkpoints": ("hfpipe",),
    "preparation": ("hfpipe", "scripts", "raw"),
    "evaluation": ("hfpipe", "scripts", "scripts-fast"),
    "start": ("hfpipe",),
}
"""Part → who is measured, in the order in which they are."""
ASKED = (("seq2seq-4x256", "trainer-fast"),)
"""What is measured only if `--contenders` names it: compiling a T5 for shapes that vary takes minutes."""
ONCE = ("checkpoints", "start")
"""Parts of the first round only."""
LEAST = 25.0
"""Seconds without which another process is not begun."""


@dataclass(frozen=True)
class Item:
    """One process of the benchmark."""

    part: str
    contender: str
    round: int
    megabytes: int

    @property
    def name(self) -> str:
        """How the results call it."""
        size = f":{self.megabytes} MB" if self.part == "preparation" else ""
        return f"{self.part}:{self.contender}:{self.round}{size}"

    @property
    def first(self) -> str:
        """How the results call the same of the first round."""
        return replace(self, round=1).name


def main() -> int:
    """Measure what was asked for; 1 when anything failed."""
    options = _options()
    if options.one:
        return _child(options)
    if options.table_from:
        return _report(options, lines_of(options.table_from), 0)
    os.environ.update(OFFLINE)
    CPU.clear()
    commit = _commit()
    facts = {"date": f"{datetime.now(tz=timezone.utc):%Y-%m-%d}", "load": round(os.getloadavg()[0], 2)}
    emit("begin", **facts, commit=commit, arguments=sys.argv[1:])
    deadline = time.time() + options.minutes * 60
    work = Path(tempfile.mkdtemp(prefix="bench-cpu-"))
    try:
        fine = [_run(item, deadline, work, options) for item in _items(options)]
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    for line in tables.equal_work(read()):
        emit("equal", **line)
    return _report(options, read(), 0 if all(fine) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="which, as peak,preparation (all)")
    parser.add_argument("--contenders", help="who is measured, as hfpipe,trainer-fast (all)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured (2)")
    parser.add_argument("--seconds", type=float, default=9.0, help="least time of the steps that count (9)")
    parser.add_argument("--minutes", type=float, default=25.0, help="how long it may take in all (25)")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds that a process may take (150)")
    parser.add_argument("--size", choices=("full", "toy"), default="full", help="toy: tiny models, few rows")
    sizes = "text that data preparation is given, as 20,200,1000; all but the first are measured once (20)"
    parser.add_argument("--megabytes", default="20", help=sizes)
    parser.add_argument(
        "--profile", action="store_true", help="show where the time of two further steps goes"
    )
    parser.add_argument(
        "--write-table",
        action="store_true",
        help="put tables and plot into docs/speed.md and tests/bench/README.md",
    )
    parser.add_argument(
        "--table-from", type=Path, metavar="FILE", help="measure nothing: results of an earlier run"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    for name, kind in (("--one", str), ("--work", Path), ("--deadline", float)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", options.megabytes):
        parser.error("--megabytes: write whole numbers, as 20,200")
    options.megabytes = [int(size) for size in options.megabytes.split(",")]
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"--parts: there is no part {part!r}; there are {', '.join(PARTS)}")
    known = list(dict.fromkeys(who for part in options.parts for who in PARTS[part]))
    options.left_out = ASKED if options.contenders is None else ()
    options.contenders = known if options.contenders is None else options.contenders.split(",")
    for contender in options.contenders:
        if contender not in known:
            parser.error(f"--contenders: these parts have no {contender!r}; they have {', '.join(known)}")
    return options


def _items(options: argparse.Namespace) -> list[Item]:
    """Return the processes in their order; every second round goes backwards through the contenders."""
    first, *others = options.megabytes
    items = [Item("data", ",".join(options.parts), 1, max(options.megabytes))]
    for number in range(1, options.rounds + 1):
        for part in options.parts:
            if part in ONCE and number > 1:
                continue
            contenders = PARTS[part] if number % 2 else PARTS[part][::-1]
            alone = len(contenders) == 1
            wanted = [each for each in contenders if alone or each in options.contenders]
            wanted = [each for each in wanted if (part, each) not in options.left_out]
            items += [Item(part, each, number, first) for each in wanted]
            if part == "preparation" and number == 1:
                items += [Item(part, each, number, size) for size in others for each in wanted]
    return items


def why_not(item: Item, lines: list[dict[str, Any]], left: float) -> str | None:
    """Return why an item is not begun when `left` seconds are left, or None."""
    if any(line.get("item") == item.first and line["status"] == "out of time" for line in lines):
        return "it was out of time in the first round"
    return "no time left" if left < LEAST else None


def _run(item: Item, deadline: float, work: Path, options: argparse.Namespace) -> bool:
    """Run one item; a failure, or the end of its time, is recorded, and the next goes on."""
    left = deadline - time.time()
    reason = why_not(item, read(), left)
    if reason is not None:
        emit("run", item=item.name, status="skipped", seconds=0, error=reason)
        return item.round > 1  # what was measured once has a figure
    more = item.megabytes * 3 if item.part in ("data", "preparation") else 0
    limit = min(options.limit + more, left)
    settings = {
        "size": options.size,
        "seconds": options.seconds,
        "megabytes": ",".join(map(str, options.megabytes if item.part == "data" else [item.megabytes])),
        "work": work,
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    arguments += ["--parts", ",".join(options.parts), *(["--profile"] if options.profile else [])]
    command = [sys.executable, str(Path(__file__)), "--one", item.name, *arguments]
    command += ["--deadline", str(time.time() + limit - 5)]
    caches = work / "caches" / f"{item.part}-{item.contender}"  # cold in the first round, then as it was left
    environ = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "XDG_CACHE_HOME": str(caches),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
    }
    started, load = time.monotonic(), round(os.getloadavg()[0], 2)
    with tempfile.TemporaryFile() as output:
        code = ended(command, environ, output, limit)
        text = logged(item.name, output, LOG)
    status = "ok" if code == 0 else "out of time" if code is None else "failed"
    facts: dict[str, Any] = {} if code == 0 else {"error": "\n".join(text.strip().splitlines()[-8:])[-1500:]}
    seconds = round(time.monotonic() - started, 1)
    emit("run", item=item.name, status=status, seconds=seconds, load=load, **facts)
    return code == 0


def _child(options: argparse.Namespace) -> int:
    """Be the process of one item."""
    faulthandler.dump_traceback_later(max(1.0, options.deadline - time.time()))  # where it stood, for the log
    part, contender, number = options.one.split(":")[:3]
    settings = Settings(
        toy=options.size == "toy",
        work=options.work,
        deadline=options.deadline,
        round=int(number),
        profile=options.profile,
        seconds=options.seconds,
        megabytes=options.megabytes[0],
    )
    if part == "data":
        _write_data(settings, options.parts, options.megabytes)
    elif part == "peak":
        from cpu_parts import peak

        peak.run(settings)
    elif part == "checkpoints":
        from cpu_parts import checkpoints

        checkpoints.run(settings)
    elif part == "preparation":
        from cpu_parts import preparation

        preparation.run(settings, contender)
    elif part == "evaluation":
        from cpu_parts import evaluation

        evaluation.run(settings, contender)
    elif part == "start":
        from cpu_parts import start

        start.run(settings)
    else:
        _train(settings, part, contender)
    return 0


def _write_data(settings: Settings, parts: list[str], sizes: list[int]) -> None:
    from cpu_parts import evaluation, works

    settings.data.mkdir(parents=True)
    for work in works.WORKS:
        if work.name in parts or (work.name == works.CHECKPOINTED and "checkpoints" in parts):
            works.work(work.name, toy=settings.toy).write(settings)
    if "preparation" in parts:
        from cpu_parts import preparation

        preparation.write_tokenizer(settings)
        for size in sizes:
            preparation.write_texts(replace(settings, megabytes=size))
    if {"evaluation", "start"} & set(parts):
        evaluation.write(settings)


def _train(settings: Settings, part: str, contender: str) -> None:
    from cpu_parts.works import work

    found = work(part, toy=settings.toy)
    if contender == "hfpipe":
        from cpu_parts import pipeline

        pipeline.run(found, settings)
    elif contender.startswith("loop"):
        from cpu_parts import plain

        plain.run(found, settings, compiled=contender == "loop-compiled")
    else:
        from cpu_parts import scripts

        scripts.run(found, settings, contender)


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _report(options: argparse.Namespace, lines: list[dict[str, Any]], code: int) -> int:
    """Print the tables, write them where that is asked for, and return the exit code."""
    text = tables.markdown(lines)
    print(f"\n{text}\n")
    for line in lines:
        if line["part"] == "run" and line["status"] != "ok":
            print(f"{line['item']}: {line['status']}: {line.get('error', '')[-300:]}")
    if options.profile:
        print("\n".join(profiles_in(LOG.read_text(encoding="utf-8"))))
    RESULTS.mkdir(parents=True, exist_ok=True)
    drawn = any(line["part"] == "train" for line in lines) and tables.plot(lines, RESULTS / "cpu.svg")
    if options.write_table:
        _write_table(options.root, lines, text, drawn=drawn)
    return code


def _write_table(root: Path, lines: list[dict[str, Any]], text: str, *, drawn: bool) -> None:
    """Put the tables into the README of the benchmarks, a short one into the manual, and keep the lines."""
    date = next((line["date"] for line in lines if line["part"] == "begin"), "undated")
    bench = root / "tests" / "bench"
    folder = bench / "results"
    folder.mkdir(exist_ok=True)
    kept = folder / f"{date}-cpu.jsonl"
    kept.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    tables.write(root / "docs" / "speed.md", f"\n{tables.short(lines)}\n")
    if drawn:
        lines_of_plot = (RESULTS / "cpu.svg").read_text(encoding="utf-8").splitlines()
        whole = "".join(
            f"{line.rstrip()}\n" for line in lines_of_plot
        )  # Matplotlib leaves blanks at line ends
        kept.with_suffix(".svg").write_text(whole, encoding="utf-8")
        text += f"\n\n![training speed of each contender](results/{kept.stem}.svg)"
    tables.write(bench / "README.md", f"\n{text}\n\nAll lines: `results/{kept.name}`.\n")


if __name__ == "__main__":
    sys.exit(main())
