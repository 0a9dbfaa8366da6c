"""Accuracy and F1 of weighted rows: scikit-learn's numbers, resampled with the weights of their rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as sk
import small

import hfpipe
from hfpipe.encoding.io import open_split
from hfpipe.metrics.metric import Metric
from hfpipe.metrics.resampling import RowWeights, Sample, draw_poisson_weights
from hfpipe.metrics.scores.classification import create_multi_label_metrics, create_single_label_metrics
from hfpipe.metrics.scores.row_weighted import add_row_weights
from hfpipe.metrics.tally import Tally, compute_scores
from hfpipe.report import DataFacts
from hfpipe.stages.scoring.row_weights import check_row_weights

ROWS, RESAMPLES, SEED = 120, 100, 3
CLASSES = ["air", "water", "rock"]
Reference = Callable[..., float]
SINGLE: dict[str, Reference] = {
    "weighted_accuracy": sk.accuracy_score,
    "weighted_f1_macro": partial(sk.f1_score, average="macro"),
    "weighted_f1_micro": partial(sk.f1_score, average="micro"),
}
SEVERAL: dict[str, Reference] = {
    "weighted_subset_accuracy": sk.accuracy_score,
    "weighted_f1_macro": partial(sk.f1_score, average="macro", zero_division=0),
    "weighted_f1_micro": partial(sk.f1_score, average="micro"),
}


def classified(labels: tuple[int, ...], *, perfect: bool = False) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    reference = random.integers(0, 2 if len(labels) else len(CLASSES), (ROWS, *labels))
    wrong = random.random(reference.shape) < (0 if perfect else 0.3)
    prediction = np.where(wrong, (reference + 1) % (2 if len(labels) else len(CLASSES)), reference)
    scores = np.full((ROWS, len(CLASSES)), 1 / len(CLASSES))
    return {"reference": reference, "prediction": prediction, "scores": scores, "nll": np.ones(ROWS)}


def tallied(
    metrics: list[Metric],
    columns: dict[str, np.ndarray],
    weights: np.ndarray,
    units: np.ndarray | None = None,
    resamples: int = RESAMPLES,
) -> Tally:
    sample = Sample(
        np.arange(ROWS) if units is None else units,
        None if units is None else "patient",
        RowWeights("votes", weights),
    )
    tally = Tally(add_row_weights(metrics, "votes"), resamples, SEED, sample)
    for rows in np.array_split(np.arange(ROWS), 7):
        tally.add(rows, {name: column[rows] for name, column in columns.items()})
    return tally


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("metrics", "labels", "expected"),
    [
        (create_single_label_metrics(CLASSES), (), SINGLE),
        (create_multi_label_metrics(CLASSES), (3,), SEVERAL),
    ],
    ids=["one class", "several classes"],
)
def test_weighted_scores_and_each_of_their_resamples_are_those_of_scikit_learn(
    metrics: list[Metric], labels: tuple[int, ...], expected: dict[str, Reference], *, grouped: bool
) -> None:
    columns, random = classified(labels), np.random.default_rng(2)
    weights = random.choice([0.0, 0.5, 1.0, 7.0], ROWS)
    units = np.arange(ROWS) // 4 if grouped else np.arange(ROWS)
    tally = tallied(metrics, columns, weights, units if grouped else None)
    drawn = draw_poisson_weights(units, RESAMPLES, SEED)
    named = {metric.name: metric for metric in tally.metrics}
    for name, reference in expected.items():
        values = tally.compute_values(named[name])
        assert values[0] == pytest.approx(
            reference(columns["reference"], columns["prediction"], sample_weight=weights)
        )
        for number in range(0, RESAMPLES, 9):
            rows = np.repeat(np.arange(ROWS), drawn[:, number])  # each with its weight, as often as drawn
            resampled = reference(
                columns["reference"][rows], columns["prediction"][rows], sample_weight=weights[rows]
            )
            assert values[1 + number] == pytest.approx(resampled), (name, number)
        cluster = r"|cluster:patient|groups:30" if grouped else ""
        [score] = (each for each in compute_scores(tally) if each.metric == name)
        assert "|row-weights:votes|interval:poisson-bca-95%|" in score.signature
        assert f"|resamples:{RESAMPLES}|seed:{SEED}{cluster}|" in score.signature
    plain = {each.metric: each.value for each in compute_scores(tally)}
    for name, reference in expected.items():
        assert plain[name.removeprefix("weighted_")] == pytest.approx(
            reference(columns["reference"], columns["prediction"])
        )


def test_a_perfect_weighted_score_rests_on_no_more_rows_than_weights_tell() -> None:
    columns = classified((), perfect=True)
    weights = np.where(np.arange(ROWS) < 10, 1.0, 0.0)
    scores = {
        each.metric: each
        for each in compute_scores(tallied(create_single_label_metrics(CLASSES), columns, weights))
    }
    weighted, plain = scores["weighted_accuracy"], scores["accuracy"]
    assert weighted.value == plain.value == 1
    assert weighted.low == pytest.approx(0.025 ** (1 / 10), abs=0.05)  # as of ten rows
    assert plain.low > 0.96
    even = compute_scores(tallied(create_single_label_metrics(CLASSES), columns, np.full(ROWS, 3.0)))
    assert {each.metric: each.low for each in even}["weighted_accuracy"] == pytest.approx(plain.low)


def recipe(folder: Path, **score: Any) -> Path:
    """Write a recipe whose data set names a column of weights, 0 for every second row."""
    made = small.recipe("bert", max_steps=2)
    del made["stages"]["pretrain"]
    made["stages"]["wiki"]["columns"] |= {"weight": "votes"}
    lines = [
        (small.ROOT / "recipes" / "sources" / "wiki.py").read_text(encoding="utf-8"),
        "def weighed(summaries):",
        "    for number, row in enumerate(abstracts(summaries)):",
        "        yield row | {'votes': number % 2 * 1.5}",
    ]
    (folder / "rows.py").write_text("\n".join(lines), encoding="utf-8")
    made["stages"]["wiki"]["source"]["python"] = "rows.py:weighed"
    made["stages"]["topics"] |= {"tokenizer": "stage:words", "model": small.MODELS["bert"]}
    made["stages"]["score"] |= {"baselines": ["majority"], "resamples": 100} | score
    return small.write(folder, made)


@pytest.mark.slow
def test_an_evaluation_weighs_rows_by_the_column_that_the_data_set_names(tmp_path: Path) -> None:
    path = recipe(tmp_path, require={"weighted_accuracy": {"max": 1}})
    run = hfpipe.run(hfpipe.load(path), tmp_path / "runs", say=lambda _: None)
    report = run.reports["score"]
    scores = {score.metric: score for score in report.scores}
    for system, file in (("model", "predictions"), ("majority", "predictions-majority")):
        rows = pd.read_parquet(run.folders["score"] / f"{file}.parquet").sort_values("row")
        test = open_split(run.folders["wiki"], "test")
        weights = np.array(test["weight"])[rows["row"]]
        assert 0 < (weights > 0).mean() < 1
        expected = sk.accuracy_score(rows["reference"], rows["prediction"], sample_weight=weights)
        [compared] = scores["weighted_accuracy"].comparisons
        found = scores["weighted_accuracy"].value if system == "model" else compared.value
        assert found == pytest.approx(expected)
    assert "row-weights:weight" in scores["weighted_f1_macro"].signature
    total = 1.5 * int((weights > 0).sum())
    assert report.facts["row_weights"] == {"column": "weight", "sum": pytest.approx(total)}
    assert "row-weights" not in scores["accuracy"].signature
    other = hfpipe.load(path, ["score.row_weights=false", "score.require={}"])
    without = hfpipe.run(other, tmp_path / "runs", say=lambda _: None)
    assert not [each.metric for each in without.reports["score"].scores if "weighted_acc" in each.metric]
    settings = without.made("score").identity
    assert "row_weights" not in settings.decisive


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("vote", "there is no column 'vote' of row weights; did you mean 'votes'?"),
        ("text", None),
        (
            "tags",
            "column 'tags' holds labels values, not the weights of rows; name a column of numbers, or "
            "write `row_weights: false`",
        ),
    ],
)
def test_a_column_that_holds_no_weights_is_refused(setting: str, message: str | None) -> None:
    known = DataFacts(columns={"text": "string", "votes": "float", "tags": "labels"}, labels={}, splits={})
    found = [problem.message for problem in check_row_weights(setting, known)]
    assert found == ([] if message is None else [message])  # a text may be a number
