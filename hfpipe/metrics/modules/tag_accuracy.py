"""Accuracy over words, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import entities


class TagAccuracy(module.OfTags):
    """Share of words whose tag is guessed right, those outside of entities included.

    Source: `seqeval.metrics.accuracy_score`.
    """

    metric = entities.TagAccuracy
