"""The scores of next-sentence prediction, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfpipe.metrics import module
from hfpipe.metrics.scores import sentences

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class NextSentence(module.OfCounts):
    """Loss and accuracy of next-sentence prediction.

    Of each text: the summed `nll` (nats), the number of `correct` predictions and of `pairs`.

    Source: the second objective of BERT (Devlin et al., 2019).
    """

    options = [{"nll": module.NUMBER, "correct": module.INTEGER, "pairs": module.INTEGER}]

    def columns(self, **inputs: list[Any]) -> Columns:
        return {f"next_sentence_{name}": column for name, column in super().columns(**inputs).items()}

    def metrics(self, columns: Columns) -> list[Metric]:
        return [sentences.NextSentenceLoss(), sentences.NextSentenceAccuracy()]
