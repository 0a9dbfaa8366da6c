"""Balanced accuracy, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import confusion, module


class BalancedAccuracy(module.OfOneLabel):
    """Mean recall of the classes that occur in the references."""

    metric = confusion.BalancedAccuracy
