"""Measures the energy of a training with codecarbon, without network access.

Transformers' callback for codecarbon queries a server for the location of the machine, so it is not used.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.integrations.integration_utils import get_available_reporting_integrations

CODECARBON = "codecarbon"
"""Name of the tracker in `report_to`."""
COUNTRY = "USA"
"""Country that codecarbon requires; only emissions depend on it, which are not reported."""


def remove_codecarbon(report_to: Any) -> Any:
    """Return the value of `report_to` for Transformers: `all` and lists without codecarbon."""
    if report_to in ("all", ["all"]):
        report_to = get_available_reporting_integrations()
    names = [report_to] if isinstance(report_to, str) else report_to
    return [name for name in names if name != CODECARBON] if names and CODECARBON in names else report_to


class Energy:
    """Energy of a training; `kwh` is None until it ends, or if it is not measured."""

    kwh: float | None = None


@contextmanager
def measure_energy(report_to: Any, *, first: bool) -> Iterator[Energy]:
    """Measure the energy of a block if `report_to` names codecarbon, in the first process of a machine.

    Counts processor and memory of this process, and all GPUs of the machine.
    """
    energy = Energy()
    if not first or CODECARBON not in ([report_to] if isinstance(report_to, str) else report_to or ()):
        yield energy
        return
    from codecarbon import OfflineEmissionsTracker

    logging.getLogger("codecarbon").setLevel(logging.ERROR)  # it logs before it reads `log_level`
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # `save_to_file`; older versions have no other way
        tracker = OfflineEmissionsTracker(
            country_iso_code=COUNTRY,
            save_to_file=False,
            tracking_mode="process",
            allow_multiple_runs=True,
            log_level="error",
        )
    tracker.start()
    try:
        yield energy
    finally:
        tracker.stop()
        found = tracker.final_emissions_data
        energy.kwh = None if found is None else float(found.energy_consumed)
