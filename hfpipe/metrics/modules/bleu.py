"""BLEU, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores import overlap

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Bleu(module.OfTranslations):
    """BLEU, from 0 to 100, with the tokenizer that suits the script of the references.

    Source: sacrebleu (Post, 2018); Papineni et al., 2002.
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        tokenize = overlap.select_tokenizer(columns["reference"])
        return [overlap.Bleu(module.count_references(columns), tokenize)]
