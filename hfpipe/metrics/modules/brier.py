"""The Brier score, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import calibration


class Brier(module.OfProbabilities):
    """Mean squared distance between the probabilities and the class of the reference, from 0 to 2.

    Source: Brier, 1950, in its form for several classes.
    """

    metric = calibration.Brier
