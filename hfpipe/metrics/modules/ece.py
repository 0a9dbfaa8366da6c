"""The expected calibration error, for `evaluate.load`."""

from __future__ import annotations

from hfpipe.metrics import calibration, module


class Ece(module.OfProbabilities):
    """How far confidence and accuracy lie apart, over 15 bins of equal width."""

    metric = calibration.CalibrationError
