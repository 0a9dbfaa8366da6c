"""The absolute error, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import regression


class Mae(module.OfNumbers):
    """Mean absolute error of the predicted numbers.

    Source: `sklearn.metrics.mean_absolute_error`.
    """

    metric = regression.AbsoluteError
