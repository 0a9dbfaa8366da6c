"""The loss an example, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import metric, module


class Loss(module.OfCounts):
    """Mean of `nats`, the loss of each example."""

    options = [{"nats": module.NUMBER}]
    metric = metric.Loss
