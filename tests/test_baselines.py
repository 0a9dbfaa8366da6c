"""Trivial baselines learn what a simple estimator can, in the columns that the metrics read."""

from __future__ import annotations

import numpy as np
import pytest

from hfpipe.errors import StageError
from hfpipe.metrics.baselines.text import Majority, TextBaseline, Tfidf
from hfpipe.metrics.scores.classification import create_multi_label_metrics, create_single_label_metrics
from hfpipe.metrics.scores.regression import create_regression_metrics
from hfpipe.metrics.tally import Tally, compute_scores

SPORTS = [
    "The team won the cup final.",
    "A goal in the last minute won the match.",
    "The cup match was lost.",
]
SCIENCE = ["The atom has a nucleus.", "Cells divide and grow.", "A nucleus lies in the cells of animals."]
TEXTS, GOLD = (SPORTS + SCIENCE) * 4, np.array(([0] * 3 + [2] * 3) * 4)
TOPICS = ["Sports", "Arts", "Science"]


def scored(baseline: TextBaseline, metrics, texts, reference):
    tally = Tally(metrics, 100, 17)
    tally.add(np.arange(len(texts)), baseline.predict(texts, reference))
    return {score.metric: score.value for score in compute_scores(tally)}


def fitted(baseline: TextBaseline, reference=GOLD) -> TextBaseline:
    baseline.fit(TEXTS, reference)
    return baseline


def test_words_tell_topics_apart_and_the_majority_does_not():
    tfidf = scored(fitted(Tfidf("label", 3)), create_single_label_metrics(TOPICS), SPORTS + SCIENCE, GOLD[:6])
    majority = scored(
        fitted(Majority("label", 3)), create_single_label_metrics(TOPICS), SPORTS + SCIENCE, GOLD[:6]
    )
    assert (tfidf["accuracy"], majority["accuracy"]) == (1, 0.5)
    assert tfidf["loss"] < majority["loss"] == pytest.approx(np.log(2))


def test_a_class_that_only_the_test_split_has_costs_much_but_is_finite():
    for baseline in (Majority("label", 3), Tfidf("label", 3)):
        columns = fitted(baseline).predict(["A painting in oil."], np.array([1]))
        assert columns["scores"].sum() == pytest.approx(1)
        assert 30 < columns["nll"][0] < 40


def test_several_labels_are_learned_one_by_one_even_those_no_text_has():
    reference = np.zeros((len(TEXTS), 3))
    reference[:, 0], reference[:, 2] = GOLD == 0, GOLD == 2
    tfidf = scored(
        fitted(Tfidf("labels", 3), reference), create_multi_label_metrics(TOPICS), TEXTS, reference
    )
    majority = scored(
        fitted(Majority("labels", 3), reference), create_multi_label_metrics(TOPICS), TEXTS, reference
    )
    assert tfidf["subset_accuracy"] == 1
    assert majority["loss"] == pytest.approx(2 * np.log(2))


@pytest.mark.parametrize("make", [Majority, Tfidf])
def test_a_single_label_that_may_be_there_or_not_works_too(make):
    reference = (GOLD == 2).astype(float)[:, None]
    columns = fitted(make("labels", 1), reference).predict(TEXTS, reference)
    assert columns["scores"].shape == columns["prediction"].shape == reference.shape


def test_the_trivial_regression_is_the_mean_and_words_do_better():
    reference = GOLD + 0.5
    tfidf = scored(fitted(Tfidf("float", 0), reference), create_regression_metrics(), TEXTS, reference)
    majority = scored(fitted(Majority("float", 0), reference), create_regression_metrics(), TEXTS, reference)
    assert majority["mse"] == pytest.approx(reference.var())
    assert tfidf["mse"] < majority["mse"] / 4
    assert (majority["pearson"], tfidf["pearson"] > 0.9) == (0, True)


def test_a_train_split_of_one_class_is_guessed_whatever_the_text():
    baseline = fitted(Tfidf("label", 3), np.full(len(TEXTS), 2))
    assert baseline.predict(["Anything."], np.array([0]))["prediction"].tolist() == [2]


def test_empty_texts_are_an_error_of_one_line():
    with pytest.raises(
        StageError, match="baseline tfidf: cannot learn from the train split: empty vocabulary"
    ):
        Tfidf("label", 2).fit(["", " "], np.array([0, 1]))


def test_the_same_rows_give_the_same_guesses():
    one, other = (fitted(Tfidf("label", 3)).predict(SPORTS, GOLD[:3])["scores"] for _ in range(2))
    assert np.array_equal(one, other)
