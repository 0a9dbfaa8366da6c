"""Blanks are filled, and what is said of the fillings is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfpipe.metrics.cloze import Frequent, cloze, ranks
from hfpipe.metrics.tally import Tally


def scored(rank: list[int]) -> dict[str, float]:
    tally = Tally(cloze(), 10, 1)
    tally.add(np.arange(len(rank)), {"rank": np.array(rank)})
    return {score.metric: score.value for score in tally.scores()}


def test_ranks_give_exact_match_top_five_and_reciprocal_rank() -> None:
    assert scored([1, 2, 5, 6, 0]) == {
        "exact_match": pytest.approx(1 / 5),
        "top5_accuracy": pytest.approx(3 / 5),
        "mean_reciprocal_rank": pytest.approx((1 + 1 / 2 + 1 / 5 + 1 / 6) / 5),
    }


@given(
    scores=st.lists(st.lists(st.integers(-3, 3), min_size=4, max_size=4), min_size=1, max_size=8),
    gold=st.integers(-1, 3),
)
def test_a_rank_counts_those_that_score_no_less(scores: list[list[int]], gold: int) -> None:
    found = ranks(np.array(scores, dtype=float), np.full(len(scores), gold))
    expected = [0 if gold < 0 else sum(each >= row[gold] for each in row) for row in scores]
    assert found.tolist() == expected


def test_what_is_no_candidate_stands_before_nothing_and_is_never_found() -> None:
    scores = np.array([[-1.0, -np.inf, -2.0], [-1.0, -np.inf, -2.0]])
    assert ranks(scores, np.array([2, -1])).tolist() == [2, 0]


def test_the_most_frequent_answers_are_the_first_guesses() -> None:
    filler = Frequent(["star", "sun", "star", "moon", "sun", "star"])
    assert [filler.rank(answer) for answer in ("star", "sun", "moon", "earth")] == [1, 2, 3, 0]
    assert filler.rank("moon", ["earth", "moon", "sun"]) == 2
    assert filler.rank("earth", ["earth", "moon", "sun"]) == 3
    assert filler.rank("star", ["earth", "moon"]) == 0
