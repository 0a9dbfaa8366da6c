"""A training goes on with another number of processes: same examples, same order, same losses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import processes
import pytest
import small

import hfpipe
from hfpipe.interruption import Interrupted
from hfpipe.runs.run import Run

STEPS, BATCH, KEPT = 8, 12, 3
"""Steps of the training, examples of a step, and the step of the checkpoint, which is between two logs."""
LOSS, NORM = 1e-5, 1e-4

RECORDS = """
import json, os
from pathlib import Path
from dataclasses import replace
from hfpipe.tasks.text_classification import TextClassification
from hfpipe.tasks.text_classification.runtime import TextClassificationEncoder

class RecordingEncoder(TextClassificationEncoder):
    def collate(self, examples, tokenizer, seed, *, train):
        if train:
            line = {"rank": os.environ.get("RANK", "0"), "index": [int(each["index"]) for each in examples]}
            with Path("seen.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + chr(10))
        return super().collate(examples, tokenizer, seed, train=train)

class Records(TextClassification):
    kind: str = "records.py:Records"

    def runtime(self):
        return replace(super().runtime(), encoder=RecordingEncoder(self))
"""
"""A task that writes the examples of each batch into the current folder."""


@dataclass(frozen=True)
class Begun:
    path: Path
    straight: Run
    """The run of one process from the beginning to the end."""
    seen: list[Counter[int]]
    """Examples of each of its steps."""
    by: dict[int, Path]
    """Number of processes → runs whose training they were killed in, after a checkpoint."""


def steps_seen(folder: Path) -> list[Counter[int]]:
    """Return the examples of each step that was computed in a folder, over all processes.

    Batches that a loader prepared for a step that was not computed any more are the last of a process.
    """
    lines = [json.loads(line) for line in (folder / "seen.jsonl").read_text(encoding="utf-8").splitlines()]
    ranks = sorted({line["rank"] for line in lines})
    by_rank = [[one for line in lines if line["rank"] == rank for one in line["index"]] for rank in ranks]
    share = BATCH // len(ranks)
    whole = min(len(found) for found in by_rank) // share
    return [
        Counter(one for found in by_rank for one in found[share * step : share * (step + 1)])
        for step in range(whole)
    ]


@contextmanager
def stop_after(step: int) -> Iterator[Callable[[str, int | None], object]]:
    """Yield progress that sends this process a signal at a step of the training."""

    @contextmanager
    def progress(title: str, _: int | None) -> Iterator[Callable[..., None]]:
        done = 0

        def advance(more: int, _: str = "") -> None:
            nonlocal done
            done += more
            if title == "topics" and more and done == step:
                os.kill(os.getpid(), signal.SIGTERM)

        yield advance

    yield progress


def run_in(
    count: int, path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, killed_after: str | None = None
) -> list[Counter[int]]:
    """Run in so many processes; return the examples of each step."""
    folder = runs.parent / f"seen-{runs.name}-{count}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if count > 1:
        config = processes.config_file(folder, "ddp-cpu", count)
        processes.run(path, runs, config, killed_after)
    elif killed_after is None:
        hfpipe.run(hfpipe.load(path), runs, say=lambda _: None)
    else:
        with stop_after(KEPT - 1) as progress, pytest.raises(Interrupted):
            hfpipe.run(hfpipe.load(path), runs, say=lambda _: None, progress=progress)
    return steps_seen(folder)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    folder = tmp_path_factory.mktemp("elastic")
    (folder / "records.py").write_text(RECORDS, encoding="utf-8")
    made = small.recipe(
        "bert",
        max_steps=STEPS,
        save_steps=KEPT,
        logging_steps=2,
        per_device_train_batch_size=BATCH,
        dataloader_num_workers=0,
        learning_rate=1e-3,
    )
    del made["stages"]["pretrain"], made["stages"]["score"]
    task = {"kind": "records.py:Records", "length": 32}
    made["stages"]["topics"] |= {"task": task, "tokenizer": "stage:words", "model": small.MODELS["bert"]}
    path = small.write(folder, made)
    sealed = f"small/topics-*/.work/checkpoint-{KEPT}/complete.json"
    with pytest.MonkeyPatch.context() as patch:
        seen = run_in(1, path, folder / "straight", patch)
        straight, by = hfpipe.open(path, folder / "straight"), {}
        for count in (1, 2):
            by[count] = folder / f"begun{count}"
            for stage in ("wiki", "words"):
                source = straight.folders[stage]
                shutil.copytree(source, by[count] / "small" / source.name)
            assert run_in(count, path, by[count], patch, sealed)[:KEPT] == seen[:KEPT]
        yield Begun(path, straight, seen, by)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_a_checkpoint_goes_on_with_more_or_fewer_processes_on_the_same_examples(
    begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(begun.by[before], runs)
    seen = run_in(after, begun.path, runs, monkeypatch)
    run = hfpipe.open(begun.path, runs)
    assert f"resuming from checkpoint-{KEPT}" in (run.folders["topics"] / "stage.log").read_text()
    assert len(begun.seen) >= STEPS
    assert seen[: STEPS - KEPT] == begun.seen[KEPT:STEPS]
    mine, theirs = (found.reports["topics"].model_dump() for found in (run, begun.straight))
    logged = [(step["step"], step["loss"], step["grad_norm"]) for step in small.history(mine)]
    expected = [(step["step"], step["loss"], step["grad_norm"]) for step in small.history(theirs)]
    assert [step for step, *_ in logged] == [step for step, *_ in expected]
    losses = max(abs(one[1] - two[1]) for one, two in zip(logged, expected, strict=True))
    norms = max(abs(one[2] - two[2]) for one, two in zip(logged, expected, strict=True))
    mean = abs(small.train_loss(mine) - small.train_loss(theirs))
    print(f"{before} → {after}: losses {losses:.1e}, gradient norms {norms:.1e}, train_loss {mean:.1e}")
    assert max(losses, mean) <= LOSS
    assert norms <= NORM
