"""The Brier score, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import calibration, module


class Brier(module.OfProbabilities):
    """Squared distance between the probabilities and the class in the reference, from 0 to 2."""

    metric = calibration.Brier
