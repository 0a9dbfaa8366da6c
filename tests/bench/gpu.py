"""What one GPU does with hfpipe: correctness, throughput next to Trainer and a plain loop, and whole recipes.

Needs no network. See README.md in this folder; `--size toy` tries the script itself on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository's hfpipe, installed or not

from gpu_parts.records import GPU, LOG, Settings, emit, read
from parts.processes import OFFLINE, ended, logged
from parts.records import ROOT


@dataclass(frozen=True)
class Item:
    """One process of the benchmark."""

    part: str
    model: str | None
    limit: float
    """Seconds that it may take."""
    least: float
    """Seconds without which it is not begun."""

    @property
    def name(self) -> str:
        """How the results call it."""
        return self.part if self.model is None else f"{self.part}:{self.model}"


ITEMS = (
    Item("a", None, 60, 20),
    Item("b", None, 110, 60),
    Item("c", "gpt2-124m", 130, 60),
    Item("e", "gpt2-124m", 110, 45),
    Item("f", "equality", 90, 40),
    Item("c", "modernbert-base", 130, 70),
    Item("e", "modernbert-base", 90, 45),
    Item("d", None, 150, 60),
    Item("c", "llama-0.5b", 150, 70),
    Item("c", "bert-base", 110, 60),
    Item("u", None, 120, 30),
    Item("l", None, 90, 30),
    Item("m", "gpt2-124m", 240, 70),
    Item("f", "llama-125m", 200, 60),
    Item("m", "modernbert-base", 240, 70),
)
"""Most important first. What follows part d runs in the time that is left over."""
MODULES = {
    "b": "correctness",
    "c": "throughput",
    "d": "recipes",
    "e": "loops",
    "f:equality": "packing",
    "f": "packing_speed",
    "l": "losses",
    "m": "compile_modes",
    "u": "unpadded",
}
"""Part or item → its module in `gpu_parts`."""
OF_MODELS = "cem"
"""Parts whose items are models."""
RESERVED = 100
"""Seconds that the items before part d leave for it, where it is asked for."""


def main() -> int:
    """Run the parts that were asked for, each in a process of its own; 1 when none of them succeeded."""
    options = _options()
    if options.one:
        return _child(options)
    os.environ.update(OFFLINE)
    GPU.clear()
    deadline = time.time() + options.minutes * 60
    chosen = [item for item in ITEMS if _wanted(item, options)]
    work = Path(tempfile.mkdtemp(prefix="bench-gpu-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(work / "inductor")
    _name_package(work)
    try:
        fine = [_run(item, chosen, deadline, work, options) for item in chosen]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table(read()))
    return 0 if any(fine) else 1


def _name_package(work: Path) -> None:
    """Let every process find the version of hfpipe where it is not installed but only lies here."""
    with contextlib.suppress(PackageNotFoundError):
        version("hfpipe")
        return
    number = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert number is not None
    facts = work / "named" / f"hfpipe-{number[1]}.dist-info"
    facts.mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: hfpipe\nVersion: {number[1]}\n"
    (facts / "METADATA").write_text(text, encoding="utf-8")
    path = [str(facts.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="a,b,c,d,e,f,l,m,u", help="which, as a,b or c:gpt2-124m,e (all)")
    parser.add_argument("--size", choices=("full", "toy"), default="full", help="toy: tiny models on the CPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="how long it may take in all (9)")
    parser.add_argument("--contenders", default="hfpipe,trainer", help="whom part c measures (both)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = [
        *dict.fromkeys(sorted(item.part for item in ITEMS)),
        *(item.name for item in ITEMS if item.model),
    ]
    for part in options.parts.split(","):
        if part not in known:
            parser.error(f"--parts: there is no part {part!r}; there are {', '.join(known)}")
    return options


def _wanted(item: Item, options: argparse.Namespace) -> bool:
    parts = options.parts.split(",")
    return item.part in parts or item.name in parts


def _run(item: Item, chosen: list[Item], deadline: float, work: Path, options: argparse.Namespace) -> bool:
    """Run one item; a failure, or the end of its time, is recorded, and the next goes on."""
    size = options.size
    names = [each.part for each in chosen]
    before = "d" in names and names.index("d") > chosen.index(item)
    left = deadline - time.time() - (RESERVED if before and item.part in "cef" else 0)
    if size == "full" and left < item.least:
        emit("run", item=item.name, status="skipped", seconds=0, error="no time left")
        return False
    limit = min(item.limit if size == "full" else 300.0, max(left, 1.0))
    arguments = ["--one", item.name, "--size", size, "--contenders", options.contenders, "--work", str(work)]
    command = [sys.executable, str(Path(__file__)), *arguments, "--deadline", str(time.time() + limit - 5)]
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if size == "toy" else dict(os.environ)
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        code = ended(command, environ, output, limit)
        text = logged(item.name, output, LOG)
    status = "ok" if code == 0 else "out of time" if code is None else "failed"
    facts: dict[str, Any] = {} if code == 0 else {"error": "\n".join(text.strip().splitlines()[-8:])[-1500:]}
    emit("run", item=item.name, status=status, seconds=round(time.monotonic() - started, 1), **facts)
    return code == 0


def _child(options: argparse.Namespace) -> int:
    """Be the process of one item."""
    faulthandler.dump_traceback_later(max(1.0, options.deadline - time.time()))  # where it stood, for the log
    part, _, model = options.one.partition(":")
    contenders = tuple(options.contenders.split(","))
    settings = Settings(options.size == "toy", options.work, options.deadline, contenders)
    if part == "a":
        from parts import machine

        emit("a", **machine.facts(settings.device, toy=settings.toy))
    else:
        module = import_module(f"gpu_parts.{MODULES.get(options.one) or MODULES[part]}")
        module.run(settings, model) if part in OF_MODELS else module.run(settings)
    return 0


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as a short table."""
    rows = [""]
    for line in lines:
        if line["part"] == "a":
            rows.append(f"{line['gpu']}: GEMM {line['gemm_tflops']} TFLOP/s, copy {line['copy_gb_s']} GB/s")
            rows += [f"  unmet: {text}" for text in line["unmet"]]
        elif line["part"] in "bflu" and "check" in line:
            rows.append(_found(line))
    rows.append(
        f"\n{'model':16}{'contender':44}{'tokens/s':>9} {'MFU':>6} {'of GEMM':>7} {'ms':>7} {'GB':>6}"
        f" {'first s':>7} micro"
    )
    rows += [_speed(line) for line in lines if line["part"] in "cefmu" and "contender" in line]
    heads = [_head(line) for line in lines if line["part"] == "l" and "way" in line]
    if heads:
        rows.append(
            f"\n{'output layer and loss':24}{'way':20}{'positions/s':>12} {'ms':>7} {'GB':>6} deviation"
        )
        rows += heads
    rows.append("")
    rows += [json.dumps(line)[:400] for line in lines if line["part"] == "d"]
    rows += [
        f"{line['item']:20} {line['status']:12} {line['seconds']} s  {line.get('error', '')[-300:]}"
        for line in lines
        if line["part"] == "run"
    ]
    return "\n".join(rows)


def _found(line: dict[str, Any]) -> str:
    found = (
        line.get("error") or line.get("skipped") or (f"{line['largest']:.2g}" if "largest" in line else "")
    )
    return f"{'ok  ' if line.get('ok') else 'FAIL' if 'ok' in line else '-   '} {line['check']}: {found}"[
        :200
    ]


def _head(line: dict[str, Any]) -> str:
    head = f"{line['shape']:24}{line['way']:20}"
    if "positions_s" not in line:
        return f"{head}{line.get('error') or line.get('skipped')}"[:200]
    largest = f"{max(line['deviations'].values()):.2g}{'' if line['ok'] else ' FAIL'}"
    return f"{head}{line['positions_s']:>12,} {line['ms']:>7} {line['peak_gb'] or '-':>6} {largest}"


def _speed(line: dict[str, Any]) -> str:
    head = f"{line['model']:16}{line['contender']:44}"
    if "tokens_s" not in line:
        return f"{head}{line.get('error') or line.get('skipped')}"[:200]
    mfu, gemm = (f"{line[name]:.1%}" if line[name] is not None else "-" for name in ("mfu", "of_gemm"))
    return (
        f"{head}{line['tokens_s']:>9,} {mfu:>6} {gemm:>7} {line['step_ms']:>7} {line['peak_gb'] or '-':>6}"
        f" {line['first_step_s']:>7} {line['micro']}"
    )


if __name__ == "__main__":
    sys.exit(main())
