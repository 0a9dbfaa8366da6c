"""Words an output, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import written


class Words(module.OfTexts):
    """Mean number of words of the `predictions`; characters count as words if a script has no spaces.

    Source: counted by hfpipe.
    """

    options = [{"predictions": module.TEXT}]
    metric = written.Words
