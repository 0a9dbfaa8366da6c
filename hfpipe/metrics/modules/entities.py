"""Precision, recall and F1 of entities, for `evaluate.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfpipe.metrics import module
from hfpipe.metrics.scores.entities import create_tagging_metrics

if TYPE_CHECKING:
    from hfpipe.metrics.metric import Metric
    from hfpipe.types import Columns


class Entities(module.OfTags):
    """Precision, recall and F1 of entities with the correct span and type; F1 of each type as well.

    Source: seqeval, which counts as the script of CoNLL-2003 (Tjong Kim Sang and De Meulder, 2003).
    """

    def metrics(self, columns: Columns) -> list[Metric]:
        tags = {tag for name in ("reference", "prediction") for sentence in columns[name] for tag in sentence}
        return create_tagging_metrics(sorted(tags))
