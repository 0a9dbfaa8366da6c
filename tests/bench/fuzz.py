"""Fuzzes the recipe loader and every reader: `fuzz.py [MINUTES] [SEED]`; exit code 1 if it finds anything.

Inputs are valid recipes and data files with something changed: values of other types, huge numbers, odd
Unicode, nesting, bytes flipped, cut off, taken out and put in. Each is to be read, or refused by an error of
hfpipe's own, within 10 s and 4 GB. `tests/test_fuzz.py` tries two thousand of them.
"""

from __future__ import annotations

import io
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fuzz_inputs import OPTIONS, broken, changed, file_of, text_file
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from hfpipe.contract import RunContext
from hfpipe.data.readers.file_options import FileOptions
from hfpipe.data.readers.files import read_files
from hfpipe.errors import HfpipeError
from hfpipe.inference.inputs import complete_rows, read_input_rows
from hfpipe.recipe import load_recipe
from hfpipe.report import DataFacts
from hfpipe.stages import KINDS
from hfpipe.store.store import read_report, read_stage
from hfpipe.tasks import TASKS

SECONDS, BYTES = 10, 4_000_000_000
ROOT = Path(__file__).parents[2]
INPUTS = ROOT / "tests" / "inputs"
RECIPES = [
    path.read_text(encoding="utf-8")
    for path in [*sorted((ROOT / "recipes").glob("*.yaml")), *sorted(INPUTS.glob("*/recipe.yaml"))]
]


@dataclass
class Tally:
    """What was tried and what was found."""

    tried: Counter[str] = field(default_factory=Counter)
    """Inputs by target."""
    refused: Counter[str] = field(default_factory=Counter)
    """Those refused by an error of hfpipe's own."""
    foreign: dict[str, str] = field(default_factory=dict)
    """Where and what an exception that is not ours was → its trace."""
    slow: list[str] = field(default_factory=list)
    """Inputs that took longer than 10 s or more than 4 GB."""

    def lines(self) -> Iterator[str]:
        """Yield the findings, a line each."""
        for name in sorted(self.tried):
            yield f"{name}: {self.tried[name]:,} inputs, {self.refused[name]:,} refused"
        yield f"inputs: {self.tried.total():,}"
        yield f"exceptions that are not ours: {len(self.foreign)}"
        yield f"inputs over {SECONDS} s or {BYTES / 1e9:.0f} GB: {len(self.slow)}"
        yield from self.foreign.values()
        yield from self.slow


class Late(BaseException):
    """An input took too long."""


@contextmanager
def limited() -> Iterator[None]:
    """Raise Late in what takes too long."""

    def late(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# targets


def recipe(draw: Any, folder: Path) -> None:
    """Load a changed recipe."""
    text = RECIPES[draw(st.integers(0, len(RECIPES) - 1))]
    if draw(st.booleans()):
        text = json.dumps(changed(draw, yaml.safe_load(text)))
    path = folder / "recipe.yaml"
    path.write_bytes(broken(draw, text.encode("utf-8", "surrogatepass")))
    sets = draw(
        st.lists(
            st.text(max_size=20)
            | st.sampled_from(["data.limit=9e99", "seed=1", "a.b.c={x: [}", "=", "name=\x1b"]),
            max_size=2,
        )
    )
    load_recipe(path, kinds=KINDS, tasks=TASKS, overrides=sets)


def reader(draw: Any, folder: Path) -> None:
    """Read a changed file to its end."""
    path, options = file_of(draw, folder)
    source = {"files": path.name, **options}
    stage = data_stage(folder, {"kind": "dataset", "source": source})
    made = stage.source
    given = {name: getattr(made, name) for name in OPTIONS if hasattr(made, name)}
    for _ in read_files(path, path.name, FileOptions(**given)):
        pass


def data_stage(folder: Path, stage: dict[str, Any]) -> Any:
    """Return a data set stage, checked as any recipe is."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"stages": {"data": stage}}), encoding="utf-8")
    return load_recipe(path, kinds=KINDS, tasks=TASKS).stages["data"]


CLEAN = [
    ["unicode"],
    ["html"],
    ["mask_pii"],
    [{"min_chars": 3}],
    [{"dedup": "exact"}],
    [{"dedup": {"kind": "near", "threshold": 0.9999999}}],
    [{"drop": {"label": [None, 1]}}],
    [{"keep_matching": "(a+)+$"}],
    [{"script": "Latin"}],
]


def dataset(draw: Any, folder: Path) -> None:
    """Build a data set of a changed file: read, clean, label, split and write."""
    path, options = file_of(draw, folder)
    stage: dict[str, Any] = {"kind": "dataset", "source": {"files": path.name, **options}}
    if draw(st.booleans()):
        stage["clean"] = draw(st.sampled_from(CLEAN))
    if draw(st.booleans()):
        stage["text"] = draw(
            st.sampled_from([["text"], ["words"], ["messages"], ["label"], ["context", "question"]])
        )
    if draw(st.booleans()):
        stage["labels"] = {
            draw(st.sampled_from(["label", "labels", "n", "tags"])): draw(
                st.sampled_from(["class", "classes", "number"])
            )
        }
    if draw(st.booleans()):
        stage["split"] = {"test": 0.3}
    if draw(st.booleans()):
        stage["limit"] = draw(st.sampled_from([1, 5, 2**63 - 1, 2**31]))
    run_dataset(data_stage(folder, stage), folder)


def run_dataset(stage: Any, folder: Path) -> None:
    @contextmanager
    def silent(_: str, __: int | None) -> Iterator[Callable[[int], None]]:
        yield lambda done, note="": None

    (folder / "out" / ".work").mkdir(parents=True)
    stage.run(RunContext("data", folder / "out", folder, 17, {}, silent))


def asked(draw: Any, folder: Path) -> None:
    """Take lines to predict from standard input."""
    inputs = draw(st.sampled_from([("text",), ("question", "context")]))
    raw = text_file(draw, draw(st.sampled_from(["jsonl", "txt"])))
    facts = DataFacts(columns=dict.fromkeys(inputs, "string"), splits={})
    for _ in complete_rows(read_input_rows(io.TextIOWrapper(io.BytesIO(raw)), inputs), inputs, facts):
        pass


def stored(draw: Any, folder: Path) -> None:
    """Open the files of a stage's folder that was changed."""
    identity = {"kind": "dataset", "version": 1, "seed": 1, "settings": {}, "files": {}, "inputs": {}}
    stage = {"name": "data", "base": "/x", "folders": {}, "identity": identity}
    report = {
        "kind": "evaluate",
        "summary": "x",
        "facts": {"history": [{"step": 1, "loss": 2.0}]},
        "ledger": {"rows": {"in": 1}},
    }
    for name, value in (("stage.json", stage), ("report.json", report)):
        (folder / name).write_bytes(
            broken(draw, json.dumps(changed(draw, value)).encode("utf-8", "surrogatepass"))
        )
    for get in (read_stage, read_report):
        get(folder)


TARGETS = (recipe, reader, reader, reader, dataset, asked, stored)


def one(target: Callable[[Any, Path], None], draw: Any, tally: Tally) -> None:
    """Try one input, and note what becomes of it."""
    name = target.__name__
    tally.tried[name] += 1
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place)
        try:
            with limited(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target(draw, folder)
        except HfpipeError as error:
            tally.refused[name] += 1
            if not str(error).strip() or len(str(error)) > 200_000:
                tally.foreign[f"{name}: message of {len(str(error))} characters"] = (
                    f"{name}: {str(error)[:200]!r}"
                )
        except Late:
            tally.slow.append(f"{name}: over {SECONDS} s: {kept(folder)}")
        except Exception as error:  # which is what is looked for
            if type(error).__module__.startswith("hypothesis"):
                raise
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{name}: {type(error).__name__} at {last.filename}:{last.lineno}"
            if where not in tally.foreign:
                tally.foreign[where] = f"{where} {kept(folder)}\n{traceback.format_exc(limit=-6)}"


def kept(folder: Path) -> str:
    """Return the beginning of the files of an input, to see it again; whole ones go where OUT says."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size < 10**7:
            parts.append(f"{path.name} {path.read_bytes()[:300]!r}")
            if "OUT" in os.environ:
                out = Path(os.environ["OUT"]) / f"{folder.name}-{path.name}"
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_bytes(path.read_bytes())
    return "; ".join(parts[:4])


def fuzz(seconds: float, first_seed: int = 0, batches: float = math.inf) -> Tally:
    """Try inputs for some seconds, or some batches; the same seed gives the same ones in the same order."""
    tally, until, number = Tally(), time.monotonic() + seconds, first_seed
    random.seed(first_seed)
    while time.monotonic() < until and number < first_seed + batches:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        batch(number, tally)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if after > before and after * 1024 > BYTES:
            tally.slow.append(f"batch {number}: {after / 1e6:.1f} GB")
        number += 1
    return tally


def batch(number: int, tally: Tally) -> None:
    """Try some inputs of one target."""
    target = TARGETS[number % len(TARGETS)]

    @seed(number)
    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def tried(data: Any) -> None:
        one(target, data.draw, tally)

    tried()


def main() -> int:
    """Run as the command line says and print what was found."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    minutes = float(sys.argv[1]) if sys.argv[1:] else 10
    tally = fuzz(60 * minutes, int(sys.argv[2]) if sys.argv[2:] else 0)
    print("\n".join(tally.lines()))
    return 1 if tally.foreign or tally.slow else 0


if __name__ == "__main__":
    sys.exit(main())
