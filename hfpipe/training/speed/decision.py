"""Makes a decision of a training once: the first process makes it, all processes and a resumed run use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hfpipe.contract import Settings
from hfpipe.distributed.world import is_first_process
from hfpipe.store.sealed import read_sealed, write_sealed
from hfpipe.store.store import report_unreadable

Decision = TypeVar("Decision", bound=Settings)

POLL = 0.2
"""Seconds between checks for the decision of the first process."""
STEPS = "steps.json"
"""File of a `StepCount` in the scratch folder of a stage."""


class StepCount(Settings):
    """The number of steps that fit into a time budget."""

    steps: int


def decide_once(
    kept: Path,
    kind: type[Decision],
    decide: Callable[[], Decision],
    applies: Callable[[Decision], bool] = lambda _: True,
) -> Decision:
    """Return the decision in a file; the first process makes and writes it if it is missing, others wait.

    A decision that no longer `applies` counts as missing.
    """
    while (found := read_decision(kept, kind)) is None or not applies(found):
        if is_first_process():
            write_sealed(kept, decide().model_dump_json())
        else:  # there is no process group yet; if the first fails, all are ended
            time.sleep(POLL)
    return found


def read_decision(kept: Path, kind: type[Decision]) -> Decision | None:
    """Return the decision in a file, None if there is none yet. Raises StageError if it is damaged."""
    if not kept.exists():
        return None
    with report_unreadable(kept):
        return kind.model_validate_json(read_sealed(kept))
