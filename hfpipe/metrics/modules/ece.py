"""The expected calibration error, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import module
from hfpipe.metrics.scores import calibration


class Ece(module.OfProbabilities):
    """Expected calibration error: mean difference of confidence and accuracy over 15 bins of equal width.

    Source: Guo et al., 2017.
    """

    metric = calibration.CalibrationError
