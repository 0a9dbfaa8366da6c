"""The scores of SQuAD 2.0, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores.spans import create_span_metrics

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class SquadV2(module.OfAnswers):
    """Exact match and F1 of answers, in percent; also for questions with and without an answer.

    Source: the script of SQuAD 2.0 (Rajpurkar et al., 2018).
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        return create_span_metrics(version_2=True)
