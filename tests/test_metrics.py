"""Scores equal scikit-learn's, however the examples come in, and their intervals mean what they say."""

from __future__ import annotations

import warnings
from itertools import pairwise
from math import exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from hfpipe.errors import StageError
from hfpipe.metrics.resampling import draw_poisson_weights
from hfpipe.metrics.scores.classification import create_multi_label_metrics, create_single_label_metrics
from hfpipe.metrics.scores.language import create_language_metrics
from hfpipe.metrics.scores.regression import create_regression_metrics
from hfpipe.metrics.tally import Tally, compare_tallies, compute_scores

TOPICS = ["Arts", "History", "Science", "Sports", "Technology"]


def classified(n: int, seed: int = 0, missing: tuple[int, ...] = (), skill: float = 2.0):
    """Columns of a classifier that is right more often than not; some classes occur nowhere."""
    random = np.random.default_rng(seed)
    there = [number for number in range(len(TOPICS)) if number not in missing]
    reference = random.choice(there, size=n)
    logits = random.normal(size=(n, len(TOPICS)))
    logits[np.arange(n), reference] += skill
    logits[:, list(missing)] = -30
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    nll = -np.log(scores[np.arange(n), reference])
    return {"reference": reference, "prediction": scores.argmax(axis=1), "scores": scores, "nll": nll}


def labelled(n: int, seed: int = 0):
    random = np.random.default_rng(seed)
    reference = random.random((n, len(TOPICS))) < [0.5, 0.3, 0.2, 0.1, 0]
    prediction = reference ^ (random.random(reference.shape) < [0.1, 0.2, 0.3, 0.1, 0])
    return {
        "reference": reference.astype(np.int64),
        "prediction": prediction.astype(np.int64),
        "nll": random.random(n),
    }


def tallied(metrics, columns, resamples=100, seed=17):
    tally = Tally(metrics, resamples, seed)
    tally.add(np.arange(len(columns["nll" if "nll" in columns else "reference"])), columns)
    return tally


def values(tally):
    return {score.metric: score.value for score in compute_scores(tally)}


def by_sklearn(columns):
    reference, prediction = columns["reference"], columns["prediction"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where it sets 0
        return {
            "accuracy": sk.accuracy_score(reference, prediction),
            "balanced_accuracy": sk.balanced_accuracy_score(reference, prediction),
            **{
                f"f1_{how}": sk.f1_score(reference, prediction, average=how)
                for how in ("macro", "micro", "weighted")
            },
            "matthews": sk.matthews_corrcoef(reference, prediction),
            "loss": sk.log_loss(reference, columns["scores"], labels=range(len(TOPICS))),
            "brier": sk.brier_score_loss(
                reference, columns["scores"], labels=range(len(TOPICS)), scale_by_half=False
            ),
            **{
                f"f1[{topic}]": sk.f1_score(reference, prediction, labels=[number], average="macro")
                for number, topic in enumerate(TOPICS)
            },
        }


@pytest.mark.parametrize(
    ("n", "missing", "skill"),
    [
        (1, (), 2.0),
        (7, (), 0.0),
        (300, (), 2.0),
        (300, (1,), 1.0),
        (300, (0, 4), 0.0),
        (50, (0, 1, 2, 3), 1.0),
    ],
)
def test_single_label_scores_equal_those_of_scikit_learn(n, missing, skill):
    columns = classified(n, seed=n, missing=missing, skill=skill)
    ours = values(tallied(create_single_label_metrics(TOPICS), columns))
    assert ours.pop("ece") >= 0
    assert ours == pytest.approx(by_sklearn(columns), abs=1e-9)


def test_a_class_that_is_guessed_but_never_gold_counts_as_in_scikit_learn():
    columns = classified(200, missing=(2,))
    columns["prediction"] = np.where(np.arange(200) % 9 == 0, 2, columns["prediction"])
    ours = values(tallied(create_single_label_metrics(TOPICS), columns))
    assert ours | by_sklearn(columns) == pytest.approx(ours, abs=1e-9)


def test_expected_calibration_error_is_the_gap_between_accuracy_and_confidence():
    columns = classified(1000)
    confidence, right = columns["scores"].max(axis=1), columns["reference"] == columns["prediction"]
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert values(tallied(create_single_label_metrics(TOPICS), columns))["ece"] == pytest.approx(
        expected, abs=1e-9
    )


def test_multi_label_scores_equal_those_of_scikit_learn():
    columns = labelled(300)
    reference, prediction = columns["reference"], columns["prediction"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "f1_micro": sk.f1_score(reference, prediction, average="micro"),
            "f1_macro": sk.f1_score(reference, prediction, average="macro"),
            "subset_accuracy": sk.accuracy_score(reference, prediction),
            "hamming_loss": sk.hamming_loss(reference, prediction),
            "loss": columns["nll"].mean(),
        }
        each = sk.f1_score(reference, prediction, average=None)
    expected |= {f"f1[{topic}]": value for topic, value in zip(TOPICS, each, strict=True)}
    assert values(tallied(create_multi_label_metrics(TOPICS), columns)) == pytest.approx(expected, abs=1e-9)


def test_regression_scores_equal_those_of_scikit_learn_and_numpy():
    random = np.random.default_rng(3)
    reference = random.normal(100, 2, size=400)
    columns = {"reference": reference, "prediction": reference + random.normal(size=400)}
    assert values(tallied(create_regression_metrics(), columns)) == pytest.approx(
        {
            "mse": sk.mean_squared_error(reference, columns["prediction"]),
            "mae": sk.mean_absolute_error(reference, columns["prediction"]),
            "pearson": np.corrcoef(reference, columns["prediction"])[0, 1],
        },
        abs=1e-9,
    )


def test_the_correlation_with_a_constant_guess_is_zero():
    reference = np.random.default_rng(3).normal(size=50)
    columns = {"reference": reference, "prediction": np.full(50, reference.mean())}
    scores = compute_scores(tallied(create_regression_metrics(), columns))
    assert next(score for score in scores if score.metric == "pearson").value == 0


def test_perplexity_is_of_all_tokens_and_no_mean_of_means():
    columns = {
        "nll": np.array([10.0, 2.0]),
        "tokens": np.array([2, 8]),
        "correct": np.array([0, 5]),
        "bytes": np.array([6, 30]),
    }
    ours = values(tallied(create_language_metrics(bytes_known=True), columns))
    assert ours == pytest.approx(
        {"perplexity": exp(1.2), "loss": 1.2, "accuracy": 0.5, "bits_per_byte": 12 / 36 / log(2)}
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 60), batch=st.integers(1, 60), processes=st.integers(1, 4), seed=st.integers(0, 9))
def test_any_order_batching_and_number_of_processes_give_the_same_scores(n, batch, processes, seed):
    columns = classified(n, seed)
    order = np.random.default_rng(seed).permutation(n)
    shares = []
    for process in range(processes):
        tally = Tally(create_single_label_metrics(TOPICS), 50, 17)
        mine = order[process::processes]
        for start in range(0, max(1, len(mine)), batch):
            index = mine[start : start + batch]
            tally.add(index, {name: column[index] for name, column in columns.items()})
        shares.append(tally.get_arrays())
    merged = tally.merge([np.sum(arrays, axis=0) for arrays in zip(*shares, strict=True)])
    for one, other in zip(
        compute_scores(tallied(create_single_label_metrics(TOPICS), columns, resamples=50)),
        compute_scores(merged),
        strict=True,
    ):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-9)
        assert (one.n, one.signature) == (other.n, other.signature)


def test_a_resampled_score_is_that_of_scikit_learn_on_the_weighted_examples():
    columns = classified(80)
    weights = draw_poisson_weights(np.arange(80), 100, 17)
    tally = tallied(create_single_label_metrics(TOPICS), columns)
    macro = next(metric for metric in tally.metrics if metric.name == "f1_macro")
    drawn = np.repeat(np.arange(80), weights[:, 41])
    expected = sk.f1_score(columns["reference"][drawn], columns["prediction"][drawn], average="macro")
    assert tally.compute_values(macro)[1 + 41] == pytest.approx(expected, abs=1e-12)


def test_weights_are_poisson_and_depend_on_seed_and_index_alone():
    weights = draw_poisson_weights(np.arange(2000), 100, 17)
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.var() == pytest.approx(1, abs=0.02)
    assert (weights == 0).mean() == pytest.approx(exp(-1), abs=0.005)
    assert np.array_equal(draw_poisson_weights(np.array([1999, 3]), 100, 17), weights[[1999, 3]])
    assert np.array_equal(draw_poisson_weights(np.arange(5), 33, 17), weights[:5, :33])
    assert not np.array_equal(draw_poisson_weights(np.arange(5), 100, 18), weights[:5])
    assert abs(np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]) < 0.01


@pytest.mark.slow
def test_the_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        columns = {
            "reference": np.zeros(150, dtype=int),
            "prediction": (random.random(150) > 0.8).astype(int),
        }
        columns |= {"scores": np.full((150, 5), 0.2), "nll": np.ones(150)}
        accuracy = compute_scores(
            tallied(create_single_label_metrics(TOPICS), columns, resamples=200, seed=trial)
        )[0]
        covered += accuracy.low <= 0.8 <= accuracy.high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_system_compared_with_itself_differs_by_nothing():
    tally = tallied(create_single_label_metrics(TOPICS), classified(100))
    result = compare_tallies(tally, tally, "same")["accuracy"]
    assert (result.difference, result.difference_low, result.difference_high, result.p_value) == (0, 0, 0, 1)


def test_the_paired_interval_of_a_small_steady_gain_is_narrower_than_either_score_s():
    weak = classified(600, skill=1.5)
    strong = dict(weak)
    improved = np.flatnonzero(weak["reference"] != weak["prediction"])[:20]
    strong["prediction"] = weak["prediction"].copy()
    strong["prediction"][improved] = weak["reference"][improved]
    mine, other = (
        tallied(create_single_label_metrics(TOPICS), columns, resamples=500) for columns in (strong, weak)
    )
    result = compare_tallies(mine, other, "weak")["accuracy"]
    assert result.difference == pytest.approx(20 / 600)
    assert result.difference_low > 0
    assert result.p_value < 0.05
    assert result.difference_high - result.difference_low < (result.high - result.low) / 2


@pytest.mark.slow
def test_the_p_value_of_systems_that_are_equally_good_is_spread_out():
    p = []
    for trial in range(100):
        mine, other = (
            tallied(create_single_label_metrics(TOPICS), classified(120, 2 * trial + which), 200, trial)
            for which in (0, 1)
        )
        p.append(compare_tallies(mine, other, "twin")["accuracy"].p_value)
    assert 0.0 <= np.mean(np.array(p) < 0.05) <= 0.12
    assert 0.35 < np.mean(p) < 0.65


def test_comparing_scores_of_different_splits_is_refused():
    mine, other = (tallied(create_single_label_metrics(TOPICS), classified(n)) for n in (40, 41))
    with pytest.raises(StageError, match="tfidf: cannot be compared: its n is 41, and the model's is 40"):
        compare_tallies(mine, other, "tfidf")


def test_a_score_that_is_not_finite_is_an_error_and_no_number():
    columns = classified(10)
    columns["nll"][3] = np.nan
    with pytest.raises(StageError, match="loss is nan: the model's outputs are not finite"):
        compute_scores(tallied(create_single_label_metrics(TOPICS), columns))


def test_an_empty_split_is_an_error():
    with pytest.raises(StageError, match="accuracy: no example was counted"):
        compute_scores(tallied(create_single_label_metrics(TOPICS), classified(0)))


def test_a_signature_says_how_the_number_was_made():
    scores = compute_scores(tallied(create_single_label_metrics(TOPICS), classified(20)))
    signature = next(score for score in scores if score.metric == "f1_macro").signature
    assert signature.startswith(
        "f1_macro|classes:5|absent:left_out|interval:poisson-bca-95%|resamples:100|seed:17|hfpipe:"
    )
    assert all(score.signature.startswith(score.metric + "|") for score in scores)


def test_averages_over_other_tokens_are_not_compared_but_bits_per_byte_are() -> None:
    metrics = create_language_metrics(correct_known=False, bytes_known=True)
    index, nll, size = np.arange(20), np.linspace(5, 9, 20), np.full(20, 40)
    coarse, fine, other = (Tally(metrics, 100, 1) for _ in range(3))
    coarse.add(index, {"nll": nll, "tokens": np.full(20, 8), "bytes": size})
    fine.add(index, {"nll": nll * 1.1, "tokens": np.full(20, 12), "bytes": size})
    other.add(index, {"nll": nll * 1.2, "tokens": np.full(20, 8), "bytes": size})
    assert compare_tallies(coarse, fine, "fine").keys() == {"bits_per_byte"}
    assert compare_tallies(coarse, other, "other").keys() == {"perplexity", "loss", "bits_per_byte"}
