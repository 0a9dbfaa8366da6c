"""Matthews' correlation, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import confusion


class Matthews(module.OfOneLabel):
    """Matthews correlation coefficient, for any number of classes.

    Source: `sklearn.metrics.matthews_corrcoef`; Gorodkin, 2004.
    """

    metric = confusion.Matthews
