"""Scores of filled blanks, from the rank of the correct answer among the candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import Mean, Metric, Share

if TYPE_CHECKING:
    from hfpipe.types import Columns


def create_cloze_metrics() -> list[Metric]:
    """Return the metrics of filled blanks.

    They read `rank`, int64 (n,): 1 if the answer ranks first among the candidates, 0 if it is not a
    candidate.
    """
    return [FillExactMatch(), TopFive(), ReciprocalRank()]


def compute_ranks(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the rank of each row's correct answer: scores (n, candidates), reference (n,) → int64 (n,).

    `reference` is -1 if the answer is not a candidate. Candidates with equal scores rank before it, so that a
    model gains nothing from constant scores; a score of -inf means no candidate.
    """
    known = reference >= 0
    own = np.take_along_axis(scores, np.where(known, reference, 0)[:, None], axis=1)
    return np.where(known, ((scores >= own) & np.isfinite(scores)).sum(axis=1), 0).astype(np.int64)


class FillExactMatch(Share):
    """Fraction of blanks whose first candidate is the correct answer."""

    name = "exact_match"

    def each(self, columns: Columns) -> np.ndarray:
        return columns["rank"] == 1


class TopFive(Share):
    """Fraction of blanks whose correct answer is among the first five candidates."""

    name = "top5_accuracy"

    def each(self, columns: Columns) -> np.ndarray:
        return (columns["rank"] >= 1) & (columns["rank"] <= 5)


class ReciprocalRank(Mean):
    """Mean of 1 / rank of the correct answer, 0 if it is not a candidate (Voorhees, 1999)."""

    name = "mean_reciprocal_rank"
    bounds = (0.0, 1.0)

    def each(self, columns: Columns) -> np.ndarray:
        rank = columns["rank"]
        return np.divide(1.0, rank, out=np.zeros(len(rank)), where=rank > 0)


class Frequent:
    """Fills every blank with the most frequent answers of the train split, independent of the text."""

    def __init__(self, answers: Iterable[str]) -> None:
        counts = Counter(answers)
        self._counts = counts
        ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))
        self._ranks = {answer: rank for rank, answer in enumerate(ordered, start=1)}

    def rank(self, answer: str, choices: Sequence[str] | None = None) -> int:
        """Return the rank of an answer among all answers of the train split, or among `choices` if given.

        Equally frequent answers are sorted alphabetically. The rank is 0 if the answer is not a candidate.
        """
        if choices is None:
            return self._ranks.get(answer, 0)
        ordered = sorted(set(choices), key=lambda choice: (-self._counts[choice], choice))
        return ordered.index(answer) + 1 if answer in ordered else 0
