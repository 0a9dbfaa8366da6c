"""The squared error, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module, regression


class Mse(module.OfNumbers):
    """Mean squared error."""

    metric = regression.SquaredError
