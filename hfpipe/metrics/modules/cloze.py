"""The scores of filled blanks, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores.cloze import create_cloze_metrics

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Cloze(module.OfCounts):
    """Exact match, top 5 and mean reciprocal rank of filled masks.

    `rank` is the rank of the correct word, from 1; 0 if it is not a candidate.

    Source: mean reciprocal rank: Voorhees, 1999.
    """

    options = [{"rank": module.INTEGER}]

    def metrics(self, columns: Columns) -> list[Metric]:
        return create_cloze_metrics()
