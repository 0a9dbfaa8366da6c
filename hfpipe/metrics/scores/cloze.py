"""Scores of filled blanks: by the rank that the right answer has among the candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import Mean, Metric, Share

if TYPE_CHECKING:
    from hfpipe.types import Columns


def cloze() -> list[Metric]:
    """Return the metrics of filled blanks.

    They read `rank`, int64 (n,): 1 for an answer that ranks before all candidates, 0 for one that is not a
    candidate at all, and so can never be found.
    """
    return [FillExactMatch(), TopFive(), ReciprocalRank()]


def ranks(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the rank of each row's right answer: scores (n, candidates), gold (n,) → int64 (n,).

    `reference` is -1 where the answer is not a candidate. Others that score alike stand before it, so that a
    model gains nothing by scoring everything alike; scores of -inf are those of no candidate.
    """
    known = reference >= 0
    own = np.take_along_axis(scores, np.where(known, reference, 0)[:, None], axis=1)
    return np.where(known, ((scores >= own) & np.isfinite(scores)).sum(axis=1), 0).astype(np.int64)


class FillExactMatch(Share):
    """Share of blanks whose first candidate is the right answer."""

    name = "exact_match"

    def each(self, columns: Columns) -> np.ndarray:
        return columns["rank"] == 1


class TopFive(Share):
    """Share of blanks whose right answer is among the first five candidates."""

    name = "top5_accuracy"

    def each(self, columns: Columns) -> np.ndarray:
        return (columns["rank"] >= 1) & (columns["rank"] <= 5)


class ReciprocalRank(Mean):
    """Mean of 1 / rank of the right answer, 0 where it is not a candidate (Voorhees, 1999)."""

    name = "mean_reciprocal_rank"
    bounds = (0.0, 1.0)

    def each(self, columns: Columns) -> np.ndarray:
        rank = columns["rank"]
        return np.divide(1.0, rank, out=np.zeros(len(rank)), where=rank > 0)


class Frequent:
    """Fills every blank with the most frequent answers of the train split, whatever the text."""

    def __init__(self, answers: Iterable[str]) -> None:
        counts = Counter(answers)
        self._counts = counts
        ordered = sorted(counts, key=lambda answer: (-counts[answer], answer))
        self._ranks = {answer: rank for rank, answer in enumerate(ordered, start=1)}

    def rank(self, answer: str, choices: Sequence[str] | None = None) -> int:
        """Return the rank of an answer among all that were seen, or among `choices` where a blank has some.

        Answers seen equally often stand in the order of the alphabet. 0 when the answer is not a candidate.
        """
        if choices is None:
            return self._ranks.get(answer, 0)
        ordered = sorted(set(choices), key=lambda choice: (-self._counts[choice], choice))
        return ordered.index(answer) + 1 if answer in ordered else 0
