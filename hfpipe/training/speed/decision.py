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


def decide_once(kept: Path, kind: type[Decision], decide: Callable[[], Decision]) -> Decision:
    """Return the decision in a file; the first process makes and writes it if it is missing, others wait."""
    if not kept.exists() and is_first_process():
        write_sealed(kept, decide().model_dump_json())
    while not kept.exists():  # there is no process group yet; if the first fails, all are ended
        time.sleep(POLL)
    with report_unreadable(kept):
        return kind.model_validate_json(read_sealed(kept))
