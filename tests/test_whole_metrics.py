"""Scores from ranks equal scikit-learn's and SciPy's, plain and under every resample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics as sk

from hfpipe.metrics.resampling import draw_poisson_weights
from hfpipe.metrics.scores.ranking import AveragePrecision, RocAuc, Spearman
from hfpipe.metrics.whole import limit_resamples, resample_scores

TOPICS = ["Arts", "History", "Science", "Sports"]
SK = {RocAuc: sk.roc_auc_score, AveragePrecision: sk.average_precision_score}


def guessed(n: int, classes: int, seed: int = 0, digits: int = 8):
    """Columns of a classifier; with few digits many of its probabilities are equal."""
    random = np.random.default_rng(seed)
    reference = random.permutation(np.arange(n) % classes)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), reference] += 1
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {"reference": reference, "scores": scores.round(digits)}


def by_sklearn(metric, columns, weight):
    """The mean over the classes that are there, each by scikit-learn; of two classes the second alone."""
    reference, scores = columns["reference"], columns["scores"]
    marks = reference if reference.ndim > 1 else reference[:, None] == np.array(metric.labels)
    classes = [1] if reference.ndim == 1 and len(metric.labels) == 2 else range(len(metric.labels))
    there = [c for c in classes if 0 < (marks[:, c] * weight).sum() < weight.sum()]
    of = SK[type(metric)]
    return np.mean([of(marks[:, c], scores[:, c], sample_weight=weight) for c in there]) if there else np.nan


@pytest.mark.slow
@pytest.mark.parametrize("kind", SK)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("digits", [1, 8])
def test_scores_equal_those_of_scikit_learn_under_every_resample(kind, classes, digits):
    columns = guessed(120, classes, digits=digits)
    index = np.random.default_rng(1).permutation(120)
    ours = resample_scores(kind(range(classes)), columns, index, 40, seed=5)
    weights = np.concatenate([np.ones((120, 1)), draw_poisson_weights(index, 40, 5)], axis=1)
    theirs = [by_sklearn(kind(range(classes)), columns, weight) for weight in weights.T]
    assert len(ours) == 41
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_roc_auc_of_several_classes_is_the_macro_one_versus_rest_of_scikit_learn():
    columns = guessed(300, 4)
    columns["scores"] /= columns["scores"].sum(axis=1, keepdims=True)
    [ours] = resample_scores(RocAuc(range(4)), columns, np.arange(300), 0, seed=0)
    assert ours == pytest.approx(
        sk.roc_auc_score(columns["reference"], columns["scores"], multi_class="ovr", average="macro"),
        abs=1e-12,
    )


@pytest.mark.parametrize("kind", SK)
def test_several_labels_an_example_are_scored_as_scikit_learn_does(kind):
    random = np.random.default_rng(3)
    scores = random.random((200, 4)).round(2)
    reference = (random.random((200, 4)) < scores).astype(np.int64)
    [ours] = resample_scores(
        kind(TOPICS), {"reference": reference, "scores": scores}, np.arange(200), 0, seed=0
    )
    assert ours == pytest.approx(SK[kind](reference, scores, average="macro"), abs=1e-12)


def test_classes_may_be_named():
    columns = guessed(100, 4)
    named = columns | {
        "reference": np.array([TOPICS[number] for number in columns["reference"]], dtype=object)
    }
    index = np.arange(100)
    numbers = resample_scores(RocAuc(range(4)), columns, index, 10, 0)
    assert resample_scores(RocAuc(TOPICS), named, index, 10, 0) == pytest.approx(numbers, abs=0)


@pytest.mark.parametrize("kind", SK)
def test_a_class_that_does_not_occur_is_left_out_and_a_single_one_leaves_no_score(kind):
    columns = guessed(90, 4)
    columns["reference"] = np.minimum(columns["reference"], 2)
    [ours] = resample_scores(kind(range(4)), columns, np.arange(90), 0, seed=0)
    assert ours == pytest.approx(by_sklearn(kind(range(4)), columns, np.ones(90)), abs=1e-12)
    assert np.isnan(
        resample_scores(kind(range(4)), columns | {"reference": np.zeros(90)}, np.arange(90), 5, 0)
    ).all()


@pytest.mark.slow
@given(
    pairs=st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_spearman_equals_scipys_on_repeated_rows(pairs, seed):
    reference, prediction = np.array(pairs, dtype=np.float64).T
    index = np.arange(len(reference))
    ours = resample_scores(Spearman(), {"reference": reference, "prediction": prediction}, index, 3, seed)
    for value, weight in zip(ours[1:], draw_poisson_weights(index, 3, seed).T, strict=True):
        x, y = np.repeat(reference, weight), np.repeat(prediction, weight)
        if len(set(x)) < 2 or len(set(y)) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_the_order_of_the_rows_changes_nothing():
    columns, index = guessed(200, 4, digits=2), np.arange(200)
    order = np.random.default_rng(2).permutation(200)
    shuffled = {name: column[order] for name, column in columns.items()}
    ours = resample_scores(RocAuc(range(4)), columns, index, 20, 0)
    assert resample_scores(RocAuc(range(4)), shuffled, index[order], 20, 0) == pytest.approx(ours, abs=1e-12)


def test_resamples_become_fewer_only_for_many_rows():
    assert limit_resamples(1000, 10_000) == limit_resamples(1000, 200_000) == 1000
    assert limit_resamples(1000, 1_000_000) == 268
    assert limit_resamples(1000, 10**9) == 100
