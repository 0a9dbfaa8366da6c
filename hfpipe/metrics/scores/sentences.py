"""Scores of next-sentence prediction, counted over the pairs that have a label."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import Metric, divide_or_zero

if TYPE_CHECKING:
    from hfpipe.types import Columns


class _Pairs(Metric):
    """Base of the scores a pair."""

    @property
    def family(self) -> Hashable:
        return "pairs"

    @property
    def signature(self) -> str:
        return f"{self.name}|average:pairs"

    def stats(self, columns: Columns) -> np.ndarray:
        names = ("next_sentence_nll", "next_sentence_correct", "next_sentence_pairs")
        return np.stack([columns[name] for name in names], axis=1).astype(np.float64)


class NextSentenceLoss(_Pairs):
    """Nats per pair."""

    higher_is_better = False
    name = "next_sentence_loss"

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(sums[..., 0], sums[..., 2])


class NextSentenceAccuracy(_Pairs):
    """Fraction of pairs for which it is predicted correctly whether the second segment follows the first."""

    name = "next_sentence_accuracy"
    bounds = (0.0, 1.0)
    is_proportion = True

    def value(self, sums: np.ndarray) -> np.ndarray:
        return divide_or_zero(*self.proportion(sums))

    def proportion(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return sums[..., 1], sums[..., 2]
