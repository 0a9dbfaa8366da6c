"""Runs the parts of one stage at once, each a prepared stage folder, as the trials of a search."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from hfpipe.errors import StageError
from hfpipe.interruption import Interrupted, StopRequest
from hfpipe.runner.jobs.devices import DeviceShare
from hfpipe.runner.launch import Launch, start
from hfpipe.store.files import write_whole
from hfpipe.store.store import Store, read_stage

FAILURE = "failure.txt"
"""File in the work folder of a stage with why it failed."""
POLL = 0.2
"""Seconds between looks at the processes."""


@contextmanager
def noting_failure(folder: Path) -> Iterator[None]:
    """Keep why a stage fails by itself, for the process that started this one; a lost one leaves no note."""
    try:
        yield
    except StageError as error:
        write_whole(folder / ".work" / FAILURE, str(error))
        raise


class FoldersAtOnce:
    """Runs prepared stage folders, up to `len(shares)` at once.

    Args:
        shares: Variables of the process of each slot.
        stop: Whether a signal asked the run to stop.
    """

    def __init__(self, shares: Sequence[Mapping[str, str]], stop: StopRequest) -> None:
        self._shares, self._stop = shares, stop

    def __call__(self, folders: Sequence[Path]) -> list[str | None]:
        """Run the stages; return for each why it failed by itself, None where it did not.

        Raises StageError where a process was lost, and Interrupted where a signal asked to stop; the others
        have then saved a checkpoint.
        """
        free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for share in self._shares:
            free.put(share)
        own = StopRequest()
        with self._stop.deferred(), ThreadPoolExecutor(len(self._shares)) as pool:
            jobs = [pool.submit(_run_folder, folder, free, own) for folder in folders]
            while not _ended(jobs):
                wait(jobs, POLL, FIRST_COMPLETED)
                lost = any(each.done() and each.exception() is not None for each in jobs)
                own.number = own.number or self._stop.number or (signal.SIGTERM if lost else None)
        errors = [error for each in jobs if (error := each.exception()) is not None]
        for error in sorted(errors, key=lambda each: isinstance(each, Interrupted)):
            raise error
        return [each.result() for each in jobs]


def _ended(jobs: Sequence[Future[str | None]]) -> bool:
    return all(each.done() for each in jobs)


def _run_folder(folder: Path, free: SimpleQueue[Mapping[str, str]], stop: StopRequest) -> str | None:
    failure, share = folder / ".work" / FAILURE, free.get()
    failure.unlink(missing_ok=True)
    try:
        # Processes of a run that has just ended may still hold the folder.
        with Store(folder.parent).lock(folder, lambda _: None):
            start(Launch(), folder, stop, DeviceShare(read_stage(folder).name, share))
    except StageError:
        if not failure.exists():
            raise
        return failure.read_text(encoding="utf-8")
    finally:
        free.put(share)
    return None
