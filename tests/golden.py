"""Shows that a change of the code changes no weight, score or prediction: runs every task, then compares.

`python tests/golden.py write FILE` runs the recipe of every task in `cases.py` and writes what came of it.
`compare FILE` runs them again and lists every value that differs; exit code 1 if there is one.
`against COMMIT` takes the values of another commit, which are made once and kept in `runs/golden`.

One process on one thread without a network, and the caches of the run are its own: on one machine, with the
same versions, two runs give the same bits. Other processors may round differently, so that a file made on
another machine is refused. The rows and recipes of the present `tests` are given to both sides.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from cases import CASES, recipe

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "runs" / "golden"
NAMED = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "numpy", "scikit-learn")
"""Packages whose versions may change a bit."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
BASELINES = {
    "causal-lm": ["unigram", "trigram"],
    "fill-mask": ["frequent"],
    "multiple-choice": ["chance", "longest"],
    "question-answering": ["sentence"],
    "summarization": ["lead"],
    "text-classification": ["majority", "tfidf"],
    "text-generation": ["majority"],
    "token-classification": ["gazetteer"],
    "translation": ["copy"],
}
TEXT = "The Danube is the second-longest river of Europe. It flows through ten countries."
ASKED: dict[str, dict[str, Any]] = {
    "causal-lm": {"text": TEXT},
    "denoising": {"text": TEXT},
    "fill-mask": {"text": "The Danube [MASK] the second-longest river of Europe."},
    "masked-lm": {"text": "The Danube [MASK] the second-longest river of Europe."},
    "multiple-choice": {"context": TEXT, "endings": ["It is a river.", "It is a number."]},
    "question-answering": {"question": "What is the Danube?", "context": TEXT},
    "text-classification": {"text": TEXT},
    "summarization": {"text": TEXT},
    "text-generation": {"prompt": "Danube"},
    "token-classification": {"words": TEXT.split()},
    "translation": {"source": "Danube"},
}
"""A row for `hfpipe.predict` of each task."""
MADE_BY_THE_STORE = {"report.json", "stage.json"}
MOST_SHOWN = 30


def main() -> int:
    """Run one command; 0 means that nothing differs."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("command", choices=("write", "compare", "against", "run"))
    parser.add_argument("target", help="a file, or a commit for `against`")
    parser.add_argument("--tasks", nargs="+", choices=sorted(CASES), default=sorted(CASES), metavar="TASK")
    parser.add_argument(
        "--renamed", nargs="*", default=[], metavar="OLD=NEW", help="columns of predictions that were renamed"
    )
    options = parser.parse_args()
    if options.command == "run":  # in a process whose hfpipe is the one to look at
        run(Path(options.target), options.tasks)
        return 0
    if options.command == "write":
        Path(options.target).write_text(json.dumps(measure(ROOT, options.tasks), indent=1), encoding="utf-8")
        return 0
    if options.command == "against":
        before = of_commit(options.target, options.tasks)
    else:
        before = json.loads(Path(options.target).read_text(encoding="utf-8"))
    if stale := refusal(before, options.tasks):
        print(stale, file=sys.stderr)
        return 2
    renamed = dict(each.split("=") for each in options.renamed)
    found = list(differences(before["values"], measure(ROOT, options.tasks)["values"], renamed))
    print(*found[:MOST_SHOWN], sep="\n", end="\n" if found else "")
    counted = sum(1 for _ in leaves(before["values"]))
    print(f"{len(found):,} of {counted:,} values differ; tasks: {', '.join(options.tasks)}")
    return 1 if found else 0


def machine() -> dict[str, str]:
    """Return what decides how numbers are rounded here."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else [platform.processor()]
    processor = sorted({line for line in lines if line.startswith(("model", "cpu family", "flags"))})
    named = {name: version(name) for name in NAMED}
    digest = hashlib.sha256("\n".join(processor).encode()).hexdigest()[:12]
    return {"processor": f"{platform.machine()} {digest}", "python": platform.python_version(), **named}


def small_recipe(tasks: list[str]) -> dict[str, Any]:
    """Return the recipe of some tasks, each evaluated with its simple baselines."""
    content = recipe(*tasks, batch_sizes=(64,))
    for name in tasks:
        content["stages"][f"{name}-score-64"]["baselines"] = BASELINES.get(name, [])
    return content


def given(tasks: list[str]) -> str:
    """Return a digest of what both sides are given."""
    rows = (ROOT / "tests" / "rows.py").read_text(encoding="utf-8")
    stages = json.dumps(small_recipe(tasks), sort_keys=True).replace(str(ROOT), "")
    return hashlib.sha256(f"{rows}\n{stages}\n{json.dumps(ASKED)}".encode()).hexdigest()


def refusal(before: Mapping[str, Any], tasks: list[str]) -> str:
    """Return why values cannot be compared with those made here, or nothing."""
    here = machine()
    other = [f"{key} {before['machine'].get(key)}, here {here[key]}" for key in here]
    other = [line for line, key in zip(other, here, strict=True) if before["machine"].get(key) != here[key]]
    if other:
        return f"these values were made with {'; '.join(other)}: write them again here"
    if before["given"] != given(tasks):
        return "these values were made of other rows, recipes or tasks: write them again"
    return ""


def measure(tree: Path, tasks: list[str]) -> dict[str, Any]:
    """Return the values that the code of a tree gives, with what decides them. Takes minutes."""
    with tempfile.TemporaryDirectory(prefix="hfpipe-golden-") as name:
        folder = Path(name)
        (folder / "small.yaml").write_text(json.dumps(small_recipe(tasks)), encoding="utf-8")
        caches = {"HF_HOME": name, "XDG_CACHE_HOME": name, "PYTHONPATH": str(tree)}
        command = [sys.executable, __file__, "run", str(folder), "--tasks", *tasks]
        subprocess.run(command, check=True, cwd=folder, env=os.environ | ENVIRONMENT | caches)
        values = json.loads((folder / "values.json").read_text(encoding="utf-8"))
    return {"machine": machine(), "given": given(tasks), "values": values}


def of_commit(commit: str, tasks: list[str]) -> dict[str, Any]:
    """Return the values of a commit, made in an empty folder unless they were kept."""
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", f"{commit}^{{commit}}"], capture_output=True, check=True)
    kept = KEPT / f"{found.stdout.decode().strip()}-{given(tasks)[:12]}.json"
    if kept.is_file():
        before: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        if not refusal(before, tasks):
            return before
    with tempfile.TemporaryDirectory(prefix="hfpipe-golden-") as name:
        packed = subprocess.run([*git, "archive", commit, "hfpipe"], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=BytesIO(packed)) as archive:
            archive.extractall(name, filter="data")
        before = measure(Path(name), tasks)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(before, indent=1), encoding="utf-8")
    return before


def run(folder: Path, tasks: list[str]) -> None:
    """Run the recipe in a folder, by what users call alone, and write what came of it to `values.json`."""
    import torch

    import hfpipe

    torch.use_deterministic_algorithms(True)
    run = hfpipe.run(hfpipe.load(folder / "small.yaml"), folder / "runs")
    values = {
        path.name.rpartition("-")[0]: of_stage(path) for path in sorted((folder / "runs").glob("*/*-*"))
    }
    for name in tasks:
        [answer] = hfpipe.predict(run.folder(f"{name}-learn"), [ASKED[name]])
        values[f"{name}-learn"]["answer"] = answer
    (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")


def of_stage(folder: Path) -> dict[str, Any]:
    """Return what a finished stage holds: digests of its files, scores, counts, columns of predictions."""
    import pyarrow.parquet as pq
    from datasets import load_from_disk

    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    made: dict[str, Any] = {name: report[name] for name in ("data", "ledger", "scores")}
    if report["kind"] == "dataset":
        rows = load_from_disk(str(folder))
        made["rows"] = {split: digest(json.dumps(rows[split].to_dict()).encode()) for split in rows}
        return made
    made["files"] = {
        path.relative_to(folder).as_posix(): digest(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".json") and path.name not in MADE_BY_THE_STORE
    }
    made["predictions"] = {
        path.stem: pq.read_table(path).sort_by("row").to_pydict() for path in sorted(folder.glob("*.parquet"))
    }
    return made


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every single value inside mappings and lists, with the keys that lead to it."""
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in entries:
            yield from leaves(each, (*path, str(key)))
    else:
        yield path, value


def differences(before: Any, after: Any, renamed: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each value that differs or is on one side only; `renamed` columns are the same."""
    old = {_new_name(path, renamed): value for path, value in leaves(before)}
    new = dict(leaves(after))
    for path in [*old, *(path for path in new if path not in old)]:
        mine, theirs = (repr(side[path]) if path in side else "nothing" for side in (old, new))
        if mine != theirs:  # a NaN equals itself here
            yield f"{' > '.join(path)}: {mine[:60]} became {theirs[:60]}"


def _new_name(path: tuple[str, ...], renamed: Mapping[str, str]) -> tuple[str, ...]:
    """Return the path with the present name of the column that stands fourth in a path of predictions."""
    if len(path) > 3 and path[1] == "predictions":
        return (*path[:3], renamed.get(path[3], path[3]), *path[4:])
    return path


if __name__ == "__main__":
    sys.exit(main())
