"""The loss per example, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import metric, module


class Loss(module.OfCounts):
    """Mean loss per example, of `nll`.

    Source: the loss of Transformers' model for the task, one value per example.
    """

    options = [{"nll": module.NUMBER}]
    metric = metric.Loss
