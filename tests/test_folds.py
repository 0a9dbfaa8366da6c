"""Cross-validation: every row of the train split is predicted by the model that was trained without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

import hfpipe
from hfpipe import api
from hfpipe.data.folds import assign_folds
from hfpipe.errors import DataError, StageError
from hfpipe.reporting.html import render_page
from hfpipe.stages.repeats.folds import HELD_OUT, read_held_out


def rows_of(**columns: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


def folds_of(rows: datasets.Dataset, count: int, **options: Any) -> np.ndarray:
    chosen: dict[str, Any] = {"inputs": ["text"], "group": None, "label": None, "seed": 3} | options
    return assign_folds(rows, count, **chosen)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=35, max_size=60), st.integers(2, 5)
)
def test_equal_rows_are_in_one_fold_and_every_row_is_in_one(pairs: list[tuple[int, int]], count: int) -> None:
    texts, labels = [f"text {number}" for number, _ in pairs], [label for _, label in pairs]
    rows = rows_of(text=texts, label=labels)
    if len(set(texts)) < count:
        return
    folds = folds_of(rows, count, label="label")
    assert set(folds) <= set(range(1, count + 1))
    assert all(
        len({fold for fold, own in zip(folds, texts, strict=True) if own == text}) == 1 for text in texts
    )
    assert (folds == folds_of(rows, count, label="label")).all()


def test_classes_are_spread_evenly_and_rows_too() -> None:
    labels = [number % 10 == 0 for number in range(200)]
    rows = rows_of(text=[f"text {number}" for number in range(200)], label=labels)
    folds = folds_of(rows, 5, label="label")
    assert np.bincount(folds)[1:].tolist() == [40] * 5
    assert np.bincount(folds[np.array(labels)])[1:].tolist() == [4] * 5
    other = folds_of(rows, 5, label="label", seed=4)
    assert (folds != other).any()


def test_rows_of_one_group_stay_together_and_a_missing_group_is_of_its_own() -> None:
    groups = [str(number // 8) if number < 80 else None for number in range(120)]
    rows = rows_of(text=[f"text {number}" for number in range(120)], patient=groups)
    folds = folds_of(rows, 4, group="patient")
    for patient in set(groups) - {None}:
        assert len({fold for fold, own in zip(folds, groups, strict=True) if own == patient}) == 1
    assert len(set(folds[80:])) == 4  # forty rows without a patient are forty groups, not one


def test_a_class_with_fewer_rows_than_folds_is_not_an_error() -> None:
    rows = rows_of(text=[f"text {number}" for number in range(30)], label=[0] * 28 + [1, 2])
    assert np.bincount(folds_of(rows, 5, label="label"))[1:].tolist() == [6] * 5


def test_fewer_groups_than_folds_are_an_error_that_says_so() -> None:
    rows = rows_of(text=["a", "b", "c", "d"], patient=["x", "x", "y", "y"])
    with pytest.raises(
        DataError, match="3 folds need at least 3 different values of 'patient', but there are 2"
    ):
        folds_of(rows, 3, group="patient")


def test_folds_that_do_not_hold_every_row_once_are_refused(tmp_path: Path) -> None:
    members = {}
    for name, rows in (("stage:a@fold1", [0, 2]), ("stage:a@fold2", [1, 2])):
        folder = tmp_path / name[6:]
        folder.mkdir()
        (folder / HELD_OUT).write_text(json.dumps({"rows": rows}), encoding="utf-8")
        members[name] = folder
    with pytest.raises(StageError, match="do not hold each of 3 rows once"):
        read_held_out(members, 3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[hfpipe.Run, Path]:
    folder = tmp_path_factory.mktemp("folded")
    recipe = small.recipe()
    del recipe["stages"]["pretrain"]
    recipe["stages"]["words"]["vocab_size"] = 500
    recipe["stages"]["topics"] |= {"model": small.MODELS["bert"], "tokenizer": "stage:words", "folds": 3}
    recipe["stages"]["score"]["split"] = "out-of-fold"
    run = api.run(hfpipe.load(small.write(folder, recipe)), folder / "runs", say=lambda _: None)
    return run, folder


@pytest.mark.slow
def test_every_row_is_predicted_by_the_training_that_did_not_see_it(folded: tuple[hfpipe.Run, Path]) -> None:
    run, _ = folded
    train = datasets.load_from_disk(str(run.folder("wiki")))["train"]
    parts = {
        fold: json.loads((run.folder(f"topics@fold{fold}") / HELD_OUT).read_text())["rows"]
        for fold in (1, 2, 3)
    }
    assert sorted(row for rows in parts.values() for row in rows) == list(range(len(train)))
    for fold, rows in parts.items():
        ledger = run.reports[f"topics@fold{fold}"].ledger["train"]
        assert ledger["rows_held_out"] == len(rows)
        predicted = {row["row"]: row for row in run.predictions("score").to_dict("records")}
        alone = api.predict(run.folder(f"topics@fold{fold}"), train[rows[:4]]["text"])
        assert [predicted[row]["prediction"] for row in rows[:4]] == [
            answer["label"] for answer in alone if answer is not None
        ]
        assert (
            len({bytes((run.folder(f"topics@fold{n}") / "model.safetensors").read_bytes()) for n in parts})
            == 3
        )


@pytest.mark.slow
def test_the_scores_are_of_all_rows_with_those_of_each_fold(folded: tuple[hfpipe.Run, Path]) -> None:
    run, _ = folded
    [accuracy] = [score for score in run.reports["score"].scores if score.metric == "accuracy"]
    rows = run.predictions("score")
    right = rows["prediction"] == rows["reference"]
    assert accuracy.n == len(rows)
    assert accuracy.value == pytest.approx(right.mean())
    assert accuracy.spread is not None
    assert accuracy.spread.over == "folds"
    for name, value in accuracy.spread.values.items():
        held_out = json.loads((run.folder(name.removeprefix("stage:")) / HELD_OUT).read_text())["rows"]
        assert value == pytest.approx(right[rows["row"].isin(held_out)].mean())
    html = render_page(run)
    assert "did not see it" in html
    assert "topics@fold3" in html
    assert "Measured on the rows that it was trained on" not in html


@pytest.mark.slow
def test_a_baseline_is_fitted_without_the_fold_that_it_predicts(folded: tuple[hfpipe.Run, Path]) -> None:
    """A tfidf that had seen the rows would know nearly all of them."""
    run, _ = folded
    rows = run.predictions("score", "tfidf")
    assert (rows["prediction"] == rows["reference"]).mean() < 0.9
    assert len(rows) == run.reports["score"].scores[0].n
