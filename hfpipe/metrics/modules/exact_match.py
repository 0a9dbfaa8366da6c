"""Exact matches, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import written


class ExactMatch(module.OfTexts):
    """Share of predictions that equal a reference, apart from white space at the ends.

    Source: equality of the texts, as `exact_match` of `evaluate`.
    """

    metric = written.ExactMatch
