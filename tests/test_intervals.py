"""Intervals and tests of scores: few rows, dependent rows, and one rule for who wins."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import pytest
from scipy.stats import binomtest

from hfpipe import number_format
from hfpipe.evaluation.power import find_smallest_difference
from hfpipe.evaluation.row_groups import group_rows
from hfpipe.metrics.intervals import compute_bootstrap_interval
from hfpipe.metrics.metric import Metric
from hfpipe.metrics.paired_tests import run_mcnemar_test
from hfpipe.metrics.resampling import Sample, draw_poisson_weights, sample_independent_rows, toss_coins
from hfpipe.metrics.scores.classification import create_multi_label_metrics, create_single_label_metrics
from hfpipe.metrics.scores.entities import TagAccuracy
from hfpipe.metrics.scores.overlap import Bleu
from hfpipe.metrics.scores.spans import create_span_metrics
from hfpipe.metrics.tally import Tally, compare_tallies, compute_scores
from hfpipe.references.places import BaselinePlace
from hfpipe.report import Comparison, DataFacts, Score
from hfpipe.stages.evaluate import Evaluate
from hfpipe.stages.scoring.bounds import Bound, compare_score, describe_doubtful_bounds, find_unmet_bounds
from hfpipe.stages.scoring.clusters import select_cluster_column
from hfpipe.stages.scoring.power_notes import format_power_notes
from hfpipe.tasks.masked_lm import MaskedLM
from hfpipe.tasks.question_answering import QuestionAnswering
from hfpipe.tasks.text_classification import TextClassification

TOPICS = ["arts", "people", "science"]


def classes(right: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of a classifier that is right on these rows."""
    reference = np.arange(len(right)) % 3
    prediction = np.where(right, reference, (reference + 1) % 3)
    scores = np.full((len(right), 3), 0.1)
    scores[np.arange(len(right)), prediction] = 0.8
    nll = -np.log(scores[np.arange(len(right)), reference])
    return {"reference": reference, "prediction": prediction, "scores": scores, "nll": nll}


def tallied(right: np.ndarray, sample: Sample | None = None, metrics: list[Metric] | None = None) -> Tally:
    tally = Tally(
        metrics or create_single_label_metrics(TOPICS), 300, 17, sample or sample_independent_rows(len(right))
    )
    tally.add(np.arange(len(right)), classes(right))
    return tally


def scores(tally: Tally) -> dict[str, Score]:
    return {score.metric: score for score in compute_scores(tally)}


def first(right: int, rows: int) -> np.ndarray:
    return np.arange(rows) < right


def test_six_of_six_right_is_not_certainty() -> None:
    found = scores(tallied(first(6, 6)))
    for name in ("accuracy", "f1_micro", "f1_macro", "balanced_accuracy", "f1[arts]"):
        assert found[name].low < 0.8, name
        assert found[name].high == 1.0
    assert "|interval:binomial-midp-95%|" in found["accuracy"].signature


def test_none_right_is_not_certainty_either() -> None:
    found = scores(tallied(first(0, 20)))
    assert (found["accuracy"].low, found["accuracy"].value) == (0.0, 0.0)
    assert 0.1 < found["accuracy"].high < 0.2


@pytest.mark.parametrize(
    ("metrics", "columns"),
    [
        (create_span_metrics(), {"reference": [["Oslo"]] * 8, "prediction": ["Oslo"] * 8}),
        (
            create_multi_label_metrics(["a", "b"]),
            {"reference": [[0, 1]] * 8, "prediction": [[0, 1]] * 8, "nll": [0.1] * 8},
        ),
        ([TagAccuracy()], {"reference": [["O", "B-X"]] * 8, "prediction": [["O", "B-X"]] * 8}),
        (
            [Bleu()],
            {
                "reference": ["the river flows to the sea"] * 8,
                "prediction": ["the river flows to the sea"] * 8,
            },
        ),
    ],
    ids=["answers", "labels", "tags", "texts"],
)
def test_a_perfect_score_on_few_rows_has_an_interval(metrics: list[Metric], columns: dict[str, list]) -> None:
    tally = Tally(metrics, 200, 17, sample_independent_rows(8))
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    if metrics[0].name in ("exact_match", "accuracy"):
        arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    tally.add(np.arange(8), arrays)
    for score in compute_scores(tally):
        if score.metric == "loss":
            continue
        best = 100.0 if score.value > 1 else 1.0
        assert score.value in (0.0, best / 2, best)
        assert score.high - score.low > 0.2 * best, score.metric


def test_the_interval_of_a_share_lies_inside_the_exact_one() -> None:
    for right, rows in ((19, 20), (3, 7), (150, 200)):
        exact = binomtest(right, rows).proportion_ci(0.95, method="exact")
        found = scores(tallied(first(right, rows)))["accuracy"]
        assert exact.low < found.low < right / rows < found.high < exact.high


def test_rows_of_one_group_are_drawn_together() -> None:
    right = np.repeat(np.random.default_rng(3).random(30) < 0.7, 10)
    groups = Sample(np.repeat(np.arange(30), 10), "patient")
    alone, grouped = scores(tallied(right)), scores(tallied(right, groups))
    for name in ("accuracy", "f1_macro", "loss"):
        width = {kind: each[name].high - each[name].low for kind, each in (("one", alone), ("all", grouped))}
        assert width["all"] > 2 * width["one"], name
        assert grouped[name].value == alone[name].value
        assert "|cluster:patient|groups:30|" in grouped[name].signature
        assert "cluster" not in alone[name].signature
    assert "korn-graubard" in grouped["accuracy"].signature


def test_a_difference_within_a_few_groups_is_not_clear_though_many_rows_show_it() -> None:
    base = np.random.default_rng(1).random(200) < 0.6
    better = base.copy()
    better[:40] = True  # all of two groups of twenty rows
    groups = Sample(np.repeat(np.arange(10), 20), "text")
    alone = compare_tallies(tallied(better), tallied(base), "base")["accuracy"]
    grouped = compare_tallies(tallied(better, groups), tallied(base, groups), "base")["accuracy"]
    assert alone.clear
    assert alone.test == "mcnemar-midp"
    assert not grouped.clear
    assert grouped.test == "randomization-midp"


def test_groups_of_one_row_change_no_number() -> None:
    right = np.random.default_rng(2).random(50) < 0.7
    rows = datasets.Dataset.from_dict({"context": [f"text {number}" for number in range(50)]})
    alone, grouped = scores(tallied(right)), scores(tallied(right, group_rows(rows, "context")))
    for name, score in alone.items():
        assert (score.low, score.high) == (grouped[name].low, grouped[name].high)


def test_equal_values_make_a_group_and_a_row_without_one_is_its_own() -> None:
    values = ["a", None, "b", "a", "", None, "b"]
    found = group_rows(datasets.Dataset.from_dict({"doc": values}), "doc")
    assert found.units.tolist() == [0, 1, 2, 0, 3, 4, 2]
    lists = group_rows(datasets.Dataset.from_dict({"doc": [["a"], ["a", "b"], ["a"]]}), "doc")
    assert lists.units.tolist() == [0, 1, 0]
    numbers = group_rows(datasets.Dataset.from_dict({"doc": [1.5, float("nan"), float("nan"), 1.5]}), "doc")
    assert numbers.units.tolist() == [0, 1, 2, 0]


def test_questions_about_one_text_are_resampled_together() -> None:
    facts = DataFacts(columns={"question": "string", "passage": "string"}, splits={"test": 8})
    task = QuestionAnswering(context="passage")
    assert select_cluster_column(None, task, facts) == "passage"
    assert select_cluster_column("question", task, facts) == "question"
    assert select_cluster_column(False, task, facts) is None
    documents = facts.model_copy(update={"columns": {**facts.columns, "document_id": "string"}})
    assert select_cluster_column(None, task, documents) == "document_id"
    assert select_cluster_column(None, TextClassification(), facts) is None


def test_batches_and_processes_do_not_change_what_is_compared() -> None:
    rng = np.random.default_rng(5)
    sample = sample_independent_rows(60)
    both = [classes(rng.random(60) < share) for share in (0.8, 0.6)]
    whole, parts = [], []
    for columns in both:
        whole.append(Tally(create_single_label_metrics(TOPICS), 100, 1, sample))
        whole[-1].add(np.arange(60), columns)
        halves = [Tally(create_single_label_metrics(TOPICS), 100, 1, sample) for _ in range(2)]
        for number, half in enumerate(halves):
            index = np.arange(number, 60, 2)
            half.add(index, {name: column[index] for name, column in columns.items()})
        sums = [np.add(*pair) for pair in zip(*(half.get_arrays() for half in halves), strict=True)]
        parts.append(halves[0].merge(sums))
    one, other = (compare_tallies(*tallies, "b") for tallies in (whole, parts))
    for name, found in one.items():
        assert found.p_value == other[name].p_value, name
        assert found.difference_low == pytest.approx(other[name].difference_low)
    assert one["accuracy"].test == "mcnemar-midp"
    assert one["loss"].test == "randomization-midp"


def test_rounding_does_not_decide_which_resamples_are_below_the_score() -> None:
    rng = np.random.default_rng(4)
    values = np.round(rng.normal(0.8, 0.05, 401), 1)
    values[0] = 0.8
    blocks = np.full(30, 0.8) + np.linspace(-0.01, 0.012, 30)
    exact = compute_bootstrap_interval(values, blocks, 30, 0.95)
    rounded = values + np.where(rng.random(401) < 0.5, 1e-15, -1e-15)
    assert compute_bootstrap_interval(rounded, blocks, 30, 0.95) == pytest.approx(exact, abs=1e-12)


def test_mcnemars_test_is_the_binomial_one_less_half_of_its_last_step() -> None:
    assert run_mcnemar_test(3, 3).p_value == 1.0
    assert run_mcnemar_test(0, 0).p_value == 1.0
    exact = binomtest(2, 12).pvalue
    assert exact / 2 < run_mcnemar_test(10, 2).p_value < exact
    assert run_mcnemar_test(10, 2) == run_mcnemar_test(2, 10)


def test_coins_are_fair_and_differ_from_the_bootstrap() -> None:
    tosses = toss_coins(np.arange(4000), 64, 7)
    assert tosses.mean() == pytest.approx(0.5, abs=0.005)
    assert np.array_equal(tosses[[5, 9]], toss_coins(np.array([5, 9]), 64, 7))
    weights = draw_poisson_weights(np.arange(4000), 64, 7)
    assert abs(np.corrcoef(tosses.ravel(), weights.ravel())[0, 1]) < 0.01


def comparison(p: float, difference: float = -0.016, baseline: str = "tfidf") -> Comparison:
    return Comparison(
        baseline=baseline,
        value=0.904,
        low=0.888,
        high=0.919,
        difference=difference,
        difference_low=-0.031,
        difference_high=-0.001,
        p_value=p,
    )


def scored(*comparisons: Comparison, low: float = 0.871, high: float = 0.905) -> Score:
    return Score(
        metric="accuracy",
        value=0.888,
        low=low,
        high=high,
        n=1336,
        higher_is_better=True,
        signature="accuracy",
        comparisons=list(comparisons),
    )


def test_the_verdict_follows_the_p_value_that_is_printed() -> None:
    assert "no clear difference from tfidf (-0.016)" in number_format.describe_verdict(
        scored(comparison(0.052))
    )
    assert "worse than tfidf (-0.016)" in number_format.describe_verdict(scored(comparison(0.049)))


def test_p_is_corrected_for_the_number_of_baselines() -> None:
    found = compare_score(scored(), [{"accuracy": comparison(p, baseline=str(p))} for p in (0.02, 0.03, 0.2)])
    assert [each.p_value for each in found.comparisons] == pytest.approx([0.06, 0.06, 0.2])
    assert found.signature.endswith("|test:bootstrap|p:holm-3")
    assert not any("worse" in line for line in number_format.describe_verdict(found))


@pytest.mark.parametrize(
    ("p", "difference", "bound", "met"),
    [
        (0.01, 0.03, {}, True),
        (0.052, 0.03, {}, False),
        (0.052, 0.03, {"p": 0.1}, True),
        (0.001, -0.03, {}, False),
        (0.001, 0.03, {"by": 0.05}, False),
        (0.001, 0.06, {"by": 0.05}, True),
    ],
)
def test_a_score_must_beat_a_baseline(
    p: float, difference: float, bound: dict[str, float], met: bool
) -> None:
    require = {"accuracy": Bound(beats=BaselinePlace("tfidf"), **bound)}
    found = list(find_unmet_bounds(require, [scored(comparison(p, difference))]))
    assert (found == []) == met
    assert all("does not beat tfidf" in line for line in found)


def test_a_bound_within_the_interval_is_noted() -> None:
    [note] = describe_doubtful_bounds({"accuracy": Bound(min=0.88)}, [scored()])
    assert note == "accuracy 0.888 [0.871, 0.905] meets 0.88 by less than 1,336 rows can show"
    [note] = describe_doubtful_bounds({"accuracy": Bound(min=0.9)}, [scored()])
    assert "misses 0.9 by less" in note
    assert not list(describe_doubtful_bounds({"accuracy": Bound(min=0.8)}, [scored()]))


def test_more_rows_show_smaller_differences() -> None:
    found = [find_smallest_difference(rows) for rows in (4, 20, 200, 2000, 200_000)]
    assert found[0] is None
    assert found[1:] == sorted(found[1:], reverse=True)
    assert found[2] == pytest.approx(0.087, abs=0.003)


def planned(rows: int, **settings: Any) -> list[str]:
    """Return what a plan says of an evaluation of a classifier on so many rows."""
    stage = Evaluate.model_validate(
        {"model": "./model", "data": "./data", "baselines": ["tfidf"], **settings}
    )
    columns = {"text": "string", "label": "label", "document_id": "string"}
    facts = DataFacts(columns=columns, splits={"test": rows}, labels={"label": TOPICS})
    return list(format_power_notes(stage, TextClassification(), facts))


def test_a_plan_says_what_the_rows_can_show_and_warns_of_a_bound_that_asks_for_more() -> None:
    first, grouped = planned(200)
    assert first.startswith("200 rows can show a difference of 0.088 or more in the share of correct rows")
    assert grouped.startswith("rows of one document_id are resampled together")
    beats = {"beats": "tfidf", "by": 0.02}
    [*_, warning] = planned(200, cluster=False, require={"accuracy": beats})
    assert warning == "warning: require: accuracy: by 0.02 is less than the 0.088 that 200 rows can show"
    assert len(planned(200, cluster=False, require={"accuracy": beats | {"by": 0.1}})) == 1
    [*_, warning] = planned(20, cluster=False, require={"accuracy": {"min": 0.99}})
    assert "with all of them right the interval begins at 0.861" in warning
    assert len(planned(20, cluster=False, require={"accuracy": {"min": 0.8}})) == 1
    assert planned(3) == ["warning: 3 rows are too few to show any difference; evaluate more rows"]


def test_a_plan_says_nothing_of_scores_that_are_no_share_of_rows() -> None:
    stage = Evaluate.model_validate({"model": "./model", "data": "./data"})
    facts = DataFacts(columns={"text": "string", "label": "float"}, splits={"test": 50})
    assert list(format_power_notes(stage, MaskedLM(), facts)) == []
    assert list(format_power_notes(stage, TextClassification(), facts)) == []
    assert list(format_power_notes(stage, TextClassification(), None)) == []
