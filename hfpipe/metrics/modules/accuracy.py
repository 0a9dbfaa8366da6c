"""Accuracy, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import confusion, module


class Accuracy(module.OfClasses):
    """Share of examples whose guess is the class in the reference."""

    metric = confusion.Accuracy
