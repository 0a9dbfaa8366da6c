"""Accuracy over words, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import entities


class TagAccuracy(module.OfTags):
    """Share of words whose tag is predicted correctly, including words outside of entities.

    Source: `seqeval.metrics.accuracy_score`.
    """

    metric = entities.TagAccuracy
