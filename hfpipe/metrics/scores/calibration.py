"""Calibration scores of a classifier's probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfpipe.metrics.metric import Mean, Metric, divide_or_zero

if TYPE_CHECKING:
    from hfpipe.types import Columns


class CalibrationError(Metric):
    """Expected calibration error: |accuracy - confidence| over bins of equal width (Guo et al., 2017).

    Reads `reference` and `prediction` (class ids, shape (n,)) and `scores` (probabilities, shape (n,
    classes)). The confidence is the highest probability; bin b of 15 holds those in (b/15, (b+1)/15].
    """

    higher_is_better = False
    name = "ece"
    bins = 15

    @property
    def signature(self) -> str:
        return f"ece|bins:{self.bins}"

    def stats(self, columns: Columns) -> np.ndarray:
        confidence = columns["scores"].max(axis=1).astype(np.float64)
        gap = (columns["reference"] == columns["prediction"]) - confidence
        place = np.clip(np.ceil(confidence * self.bins) - 1, 0, self.bins - 1)
        inside = (place[:, None] == np.arange(self.bins)).astype(np.float64)
        return np.concatenate([inside * gap[:, None], inside], axis=1)

    def value(self, sums: np.ndarray) -> np.ndarray:
        gaps, counts = np.split(sums, 2, axis=-1)
        return divide_or_zero(np.abs(gaps).sum(-1), counts.sum(-1))


class Brier(Mean):
    """Squared distance between the probabilities and the reference class, summed over classes (Brier, 1950).

    Reads `reference` (class ids, shape (n,)) and `scores` (probabilities, shape (n, classes)). From 0 to 2,
    as `sklearn.metrics.brier_score_loss(…, scale_by_half=False)`.
    """

    higher_is_better = False
    name = "brier"

    @property
    def signature(self) -> str:
        return "brier|scale_by_half:no|average:examples"

    def each(self, columns: Columns) -> np.ndarray:
        scores = columns["scores"].astype(np.float64)
        reference = columns["reference"][:, None] == np.arange(scores.shape[1])
        return ((scores - reference) ** 2).sum(axis=1)
