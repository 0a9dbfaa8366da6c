"""TER, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores import overlap

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Ter(module.OfTranslations):
    """Translation edit rate, in percent; lower is better.

    Words are separated by spaces; if the script of the references has no spaces, they are BLEU's tokens.

    Source: sacrebleu; Snover et al., 2006.
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        tokenize = overlap.select_tokenizer(columns["reference"])
        return [overlap.Ter(module.count_references(columns), None if tokenize == "13a" else tokenize)]
