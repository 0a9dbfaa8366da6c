"""What `hfpipe.open` gives of a finished run as DataFrames."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_report import finish, make_run

import hfpipe
from hfpipe.evaluation.predictions_file import read_predictions
from hfpipe.report import Report
from hfpipe.runs import dataframes
from hfpipe.store.artifacts import get_predictions_path


@pytest.fixture
def run(tmp_path: Path) -> hfpipe.Run:
    root = make_run(tmp_path / "demo")
    score = hfpipe.open(root).folder("score")
    for name, guesses in {
        "predictions": ["Arts", "People"],
        "predictions-stage-from-scratch": ["Arts"] * 2,
    }.items():
        scores = [[0.9, 0.1], [0.2, 0.8]]
        table = pa.table({"id": ["b", "a"], "row": [1, 0], "prediction": guesses, "scores": scores})
        pq.write_table(table, score / f"{name}.parquet")
    return hfpipe.open(root)


def test_stages_are_rows_in_order_with_their_folders(run: hfpipe.Run) -> None:
    stages = run.stages.set_index("stage")
    assert list(stages.index) == ["wiki", "topics", "score"]
    assert list(stages["kind"]) == ["dataset", "finetune", "evaluate"]
    assert stages.loc["topics", "seconds"] == 192
    assert stages.loc["topics", "folder"] == run.folder("topics")
    assert stages.loc["topics", "folder"].name == f"topics-{'b' * 12}"


def test_every_score_has_a_row_for_the_model_and_for_each_baseline(run: hfpipe.Run) -> None:
    scores = run.scores
    assert not scores.duplicated(["stage", "metric", "system"]).any()
    assert scores.query("metric == 'f1[Arts]'")["system"].tolist() == ["model"]
    accuracy = scores.query("stage == 'score' and metric == 'accuracy'").set_index("system")
    assert list(accuracy.index) == ["model", "majority", "tfidf", "stage:from-scratch"]
    best, scratch = accuracy.loc["model"], accuracy.loc["stage:from-scratch"]
    assert best["value"] - scratch["value"] == pytest.approx(scratch["difference"])
    assert best["low"] < best["value"] < best["high"]
    assert math.isnan(best["p_value"])
    assert scratch["signature"] == best["signature"] == "accuracy|average:examples"


def test_curves_hold_what_was_logged_at_each_step_in_one_row(run: hfpipe.Run) -> None:
    curves = run.curves
    assert list(curves.columns) == [
        "stage",
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "eval_loss",
    ]
    assert list(curves["step"]) == list(range(10, 210, 10))
    assert curves.dropna(subset="eval_loss")[["step", "loss", "eval_loss"]].to_numpy().tolist() == [
        [100.0, pytest.approx(1.9), 2.0],
        [200.0, pytest.approx(1.4), 1.6],
    ]


def test_a_loss_that_was_no_number_is_missing_from_the_curve(run: hfpipe.Run) -> None:
    history = [
        {"step": 1, "loss": float("nan")},
        {"step": 2, "loss": 2.0},
        "nonsense",
        {"train_runtime": 3, "step": 2},
    ]
    settings = {"kind": "finetune", "task": {"kind": "text-classification"}}
    report = Report(kind="finetune", summary="", facts={"history": history})
    root = run.folder("topics").parent
    finish(root, "topics", settings, ["wiki"], report)
    curves = hfpipe.open(root).curves
    assert curves["loss"].dtype == float
    assert curves["loss"].isna().tolist() == [True, False]


def test_the_ledger_balances_as_a_frame_too(run: hfpipe.Run) -> None:
    rows = run.ledger.query("stage == 'wiki' and part == 'rows'").set_index("entry")["count"]
    assert rows["in"] == rows.drop("in").sum() == 1100


def test_predictions_of_two_systems_stand_side_by_side(run: hfpipe.Run) -> None:
    mine, other = run.predictions("score"), run.predictions("score", "stage:from-scratch")
    assert mine["id"].tolist() == other["id"].tolist() == ["a", "b"]
    assert mine["prediction"].tolist() == ["People", "Arts"]
    assert mine["scores"][0].tolist() == [0.2, 0.8]


def test_a_run_without_scores_gives_frames_with_their_columns(run: hfpipe.Run) -> None:
    empty = hfpipe.Run({}, {})
    for frame in (empty.stages, empty.scores, empty.curves, empty.ledger):
        assert isinstance(frame, pd.DataFrame)
        assert len(frame) == 0
        assert "stage" in frame.columns


def test_a_missing_name_is_reported_with_the_known_ones(run: hfpipe.Run) -> None:
    with pytest.raises(hfpipe.RecipeError, match="topisc: there is no such stage; did you mean 'topics'"):
        run.model("topisc")
    with pytest.raises(hfpipe.RecipeError, match="no predictions of 'majorty'; did you mean 'majority'"):
        run.predictions("score", "majorty")
    with pytest.raises(hfpipe.RecipeError, match=r"topics: there are no predictions of 'model'$"):
        run.predictions("topics")


def test_every_place_has_a_file_of_its_own() -> None:
    places = [
        "m",
        "./m",
        "../m",
        "/m",
        "a/b",
        "a-b",
        "./a-b",
        "a@b",
        "stage:x",
        "stage-x",
        "./stage-x",
        "..",
        ".",
    ]
    names = [get_predictions_path(Path("score"), place).name for place in places]
    assert len(set(names)) == len(places)
    assert names[places.index("stage:x")] == "predictions-stage-x.parquet"


def test_predictions_of_an_earlier_version_open_with_the_names_of_this_one(tmp_path: Path) -> None:
    old = tmp_path / "predictions.parquet"
    attrs = json.dumps({"classes": {}, "inputs": ["text", "prediction", "nats"]}).encode()
    table = pa.table(
        {"id": ["b", "a"], "row": [1, 0], "gold": ["x", "y"], "guess": ["x", "x"], "nll": [0.5, 0.25]}
        | {"text": ["B", "A"], "prediction": ["an", "input"], "nats": [3, 4]}
    )
    pq.write_table(table.replace_schema_metadata({b"PANDAS_ATTRS": attrs}), old)
    frame = dataframes.read_prediction_frame(old)
    assert frame["reference"].tolist() == ["y", "x"]
    assert frame["prediction"].tolist() == ["x", "x"]
    assert frame["input_prediction"].tolist() == ["input", "an"]
    assert frame["nats"].tolist() == [4, 3]  # an input keeps its own name
    rows, columns = read_predictions(old)
    assert rows.tolist() == [0, 1]
    assert sorted(columns) == ["id", "nll", "prediction", "reference"]
    assert columns["reference"].tolist() == ["y", "x"]
