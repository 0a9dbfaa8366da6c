"""The scores of SQuAD 1.1, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores.spans import create_span_metrics

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Squad(module.OfAnswers):
    """Exact match and F1 of answers, in percent.

    Source: the script of SQuAD 1.1 (Rajpurkar et al., 2016).
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        return create_span_metrics()
