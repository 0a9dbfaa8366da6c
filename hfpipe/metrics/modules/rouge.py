"""ROUGE, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores.written import create_summary_metrics, select_rouge_tokenizer

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Rouge(module.OfTexts):
    """ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum with stemming, from 0 to 1.

    References in other languages than English are split into words by the rules of Unicode, and into
    characters where a script has no spaces.

    Source: rouge-score; Lin, 2004.
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        return create_summary_metrics(tokenize=select_rouge_tokenizer(columns["reference"]))
