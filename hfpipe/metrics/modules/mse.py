"""The squared error, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import regression


class Mse(module.OfNumbers):
    """Mean squared error of the predicted numbers.

    Source: `sklearn.metrics.mean_squared_error`.
    """

    metric = regression.SquaredError
