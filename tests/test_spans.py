"""Exact match and F1 of answers follow the rules of the official SQuAD scripts, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfpipe.metrics.metric import to_object_array
from hfpipe.metrics.scores.spans import (
    compute_exact_match,
    compute_f1,
    create_span_metrics,
    normalize_answer,
    score_best_answer,
)
from hfpipe.metrics.tally import Tally

# The example of the paper on SQuAD 1.1, whose three crowd workers marked different spans.
GOLD = ["Denver Broncos", "the Denver Broncos", "Broncos"]


def scores(pairs: list[tuple[str, list[str]]], *, version_2: bool) -> dict[str, float]:
    reference, prediction = (
        to_object_array(references for _, references in pairs),
        to_object_array(said for said, _ in pairs),
    )
    tally = Tally(create_span_metrics(version_2=version_2), 0, 17)
    tally.add(np.arange(len(pairs)), {"reference": reference, "prediction": prediction})
    return {metric.name: float(tally.compute_values(metric)[0]) for metric in tally.metrics}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver\nBroncos!", "denver broncos"),
        ("U.S.", "us"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("a-theist", "atheist"),  # punctuation goes before articles
        ("$4,000", "4000"),
        ("“The” Beatles", "“ ” beatles"),  # only ASCII punctuation goes
        ("The.", ""),
    ],
)
def test_answers_are_normalized_as_the_scripts_do(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the Denver Broncos", "Denver Broncos", 1.0),
        ("Broncos", "Denver Broncos", 2 / 3),
        ("Denver Denver Broncos", "Denver Broncos", 4 / 5),  # a word counts as often as both have it
        ("Carolina Panthers", "Denver Broncos", 0.0),
        ("", "Denver Broncos", 0.0),
    ],
)
@pytest.mark.parametrize("version_2", [False, True])
def test_f1_is_over_shared_words(prediction: str, reference: str, expected: float, version_2: bool) -> None:
    assert compute_f1(prediction, reference, version_2=version_2) == pytest.approx(expected)


def test_the_gold_answer_that_suits_best_counts() -> None:
    assert score_best_answer("Broncos", GOLD) == (1, 1)
    assert score_best_answer("Denver Broncos of Denver", GOLD) == pytest.approx((0, 2 / 3))


def test_answers_that_normalize_to_nothing_match_but_share_words_in_version_2_alone() -> None:
    assert compute_exact_match("The", "a") == 1
    assert compute_f1("The", "a") == 0
    assert compute_f1("The", "a", version_2=True) == 1


def test_saying_nothing_is_right_where_there_is_no_answer() -> None:
    assert score_best_answer("", [], version_2=True) == (1, 1)
    assert score_best_answer("Denver", [], version_2=True) == (0, 0)
    assert score_best_answer("", ["the"], version_2=True) == (1, 1)  # what is left of this answer is nothing


def test_version_1_gives_two_numbers_in_percent() -> None:
    pairs = [
        ("Broncos", GOLD),
        ("Santa Clara", ["Santa Clara, California"]),
        ("reference", ["Levi's Stadium"]),
    ]
    assert scores(pairs, version_2=False) == pytest.approx(
        {"exact_match": 100 / 3, "f1": 100 * (1 + 4 / 5) / 3}
    )


def test_version_2_tells_questions_with_and_without_an_answer_apart() -> None:
    pairs = [
        ("Broncos", GOLD),
        ("", ["Santa Clara, California"]),
        ("", []),
        ("1066", []),
        ("", []),
    ]
    assert scores(pairs, version_2=True) == pytest.approx(
        {
            "exact_match": 60,
            "f1": 60,
            "exact_match[has_answer]": 50,
            "f1[has_answer]": 50,
            "exact_match[no_answer]": 200 / 3,
            "f1[no_answer]": 200 / 3,
        }
    )


def test_a_signature_names_the_rule() -> None:
    assert [metric.signature for metric in create_span_metrics(version_2=True)][:2] == [
        "exact_match|rule:squad-2.0|tok:unicode|unit:percent",
        "f1|rule:squad-2.0|tok:unicode|unit:percent",
    ]
    assert create_span_metrics()[0].signature == "exact_match|rule:squad-1.1|tok:unicode|unit:percent"


@given(st.text(max_size=20), st.text(max_size=20), st.booleans())
def test_f1_does_not_mind_which_is_gold_and_is_1_for_an_exact_match_of_words(
    one: str, other: str, version_2: bool
) -> None:
    assert compute_f1(one, other, version_2=version_2) == compute_f1(other, one, version_2=version_2)
    if compute_exact_match(one, other) and normalize_answer(one):
        assert compute_f1(one, other, version_2=version_2) == pytest.approx(1)
