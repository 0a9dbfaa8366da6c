"""Words an output, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import written


class Words(module.OfTexts):
    """Mean number of words of the `predictions`: those between spaces, or characters where there are none.

    Source: counted by hfpipe.
    """

    options = [{"predictions": module.TEXT}]
    metric = written.Words
