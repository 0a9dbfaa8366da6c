"""Folds of tasks whose examples are packed from several rows, and repeated trainings in several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from cases import DECODER
from processes import config_file
from processes import run as run_in_processes
from test_processes import RANKED

import hfpipe
from hfpipe import api
from hfpipe.stages.repeats.folds import HELD_OUT


def recipe() -> dict[str, Any]:
    """Return a recipe with folds of both packed tasks, and a classifier with two seeds."""
    made = small.recipe(max_steps=4)
    stages = made["stages"]
    pretrain, topics, score = (stages.pop(name) for name in ("pretrain", "topics", "score"))
    stages["words"]["vocab_size"] = 500
    stages["bytes"] = stages["words"] | {"algorithm": "bpe", "style": "gpt"}
    folded = pretrain | {"kind": "finetune", "folds": 2}
    stages["causal"] = folded | {
        "task": {"kind": "causal-lm", "length": 32},
        "tokenizer": "stage:bytes",
        "model": DECODER,
    }
    stages["masked"] = folded | {"model": small.MODELS["bert"]}
    stages["topics"] = topics | {
        "tokenizer": "stage:words",
        "model": small.MODELS["bert"],
        "seeds": [1, 2],
    }
    out = {"kind": "evaluate", "data": "stage:wiki", "split": "out-of-fold"}
    stages["causal-score"] = out | {"model": "stage:causal", "baselines": ["unigram"]}
    stages["masked-score"] = out | {"model": "stage:masked"}
    stages["causal-one"] = out | {"model": "stage:causal@fold1", "split": "train"}
    stages["score"] = score | {"baselines": ["majority"]}
    return made


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[hfpipe.Run, Path]:
    folder = tmp_path_factory.mktemp("packed")
    path = small.write(folder, recipe())
    return api.run(hfpipe.load(path), folder / "runs", say=lambda _: None), path


def held_out(run: hfpipe.Run, name: str) -> list[int]:
    rows: list[int] = json.loads((run.folder(name) / HELD_OUT).read_text(encoding="utf-8"))["rows"]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", ["causal", "masked"])
def test_folds_of_a_packed_task_leave_rows_out_and_predict_every_row_once(
    packed: tuple[hfpipe.Run, Path], name: str
) -> None:
    run, _ = packed
    parts = [held_out(run, f"{name}@fold{fold}") for fold in (1, 2)]
    ledgers = [run.reports[f"{name}@fold{fold}"].ledger["train"] for fold in (1, 2)]
    total = sum(map(len, parts))
    assert sorted(parts[0] + parts[1]) == list(range(total))
    for ledger, part in zip(ledgers, parts, strict=True):
        assert ledger["rows_held_out"] == len(part)
        assert ledger["rows"] + len(part) == total
    rows = run.predictions(f"{name}-score")
    assert sorted(rows["row"]) == list(range(total))


@pytest.mark.slow
def test_a_row_of_a_packed_task_is_predicted_by_the_training_without_it(
    packed: tuple[hfpipe.Run, Path],
) -> None:
    run, _ = packed
    mine = run.predictions("causal-score").set_index("row")["nll"]
    alone = run.predictions("causal-one").set_index("row")["nll"]
    first, second = held_out(run, "causal@fold1"), held_out(run, "causal@fold2")
    assert np.allclose(mine[first], alone[first], rtol=1e-6)
    assert not np.isclose(mine[second], alone[second], rtol=1e-6).any()


def numbers(run: hfpipe.Run) -> dict[str, list[float]]:
    """Return every loss and score of a run; in place of ranked metrics, the scores of each row."""
    found = {
        name: [step["loss"] for step in small.history(run.reports[name].model_dump())]
        for name in run.reports
        if "@" in name
    }
    for name in ("causal-score", "masked-score", "score"):
        for score in run.reports[name].scores:
            if score.metric in RANKED:
                continue
            found[f"{name} {score.metric}"] = [score.value, score.low, score.high]
            if score.spread is not None:
                found[f"{name} {score.metric}"] += list(score.spread.values.values())
    for seed in (1, 2):
        rows = run.predictions("score", f"stage:topics@{seed}").sort_values("row")
        found[f"rows {seed}"] = np.concatenate(rows["scores"].tolist()).tolist()
    return found


@pytest.mark.slow
def test_two_processes_give_what_one_gives_with_seeds_and_folds(
    packed: tuple[hfpipe.Run, Path], tmp_path: Path
) -> None:
    alone, path = packed
    run_in_processes(path, tmp_path / "runs", config_file(tmp_path, "ddp-cpu", 2))
    found, expected = numbers(hfpipe.open(path, tmp_path / "runs")), numbers(alone)
    assert found.keys() == expected.keys()
    assert len(expected) > 20
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-5, abs=1e-5), name
