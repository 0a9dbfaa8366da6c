"""Runs parts of one stage concurrently, such as the trials of a search; each is a prepared stage folder."""

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
from hfpipe.store.files import write_atomically
from hfpipe.store.store import Store, read_stage

FAILURE = "failure.txt"
"""File in the work folder of a stage with the reason of its failure."""
POLL = 0.2
"""Seconds between checks of the processes."""


@contextmanager
def record_failure(folder: Path) -> Iterator[None]:
    """Write the reason why a stage fails to a file, for the process that started this one."""
    try:
        yield
    except StageError as error:
        write_atomically(folder / ".work" / FAILURE, str(error))
        raise


class FoldersAtOnce:
    """Runs prepared stage folders, up to `len(shares)` concurrently.

    Args:
        shares: Environment variables of the process of each slot.
        stop: Whether a signal requested the run to stop.
    """

    def __init__(self, shares: Sequence[Mapping[str, str]], stop: StopRequest) -> None:
        self._shares, self._stop = shares, stop

    def __call__(self, folders: Sequence[Path]) -> list[str | None]:
        """Run the stages; return the reason why each failed, None if it did not.

        Raises StageError if a process was lost, and Interrupted if a signal requested a stop; the other
        stages have then saved a checkpoint.
        """
        free: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for share in self._shares:
            free.put(share)
        own = StopRequest()
        with self._stop.defer(), ThreadPoolExecutor(len(self._shares)) as pool:
            jobs = [pool.submit(_run_folder, folder, free, own) for folder in folders]
            while not _have_ended(jobs):
                wait(jobs, POLL, FIRST_COMPLETED)
                lost = any(each.done() and each.exception() is not None for each in jobs)
                own.number = own.number or self._stop.number or (signal.SIGTERM if lost else None)
        errors = [error for each in jobs if (error := each.exception()) is not None]
        for error in sorted(errors, key=lambda each: isinstance(each, Interrupted)):
            raise error
        return [each.result() for each in jobs]


def _have_ended(jobs: Sequence[Future[str | None]]) -> bool:
    return all(each.done() for each in jobs)


def _run_folder(folder: Path, free: SimpleQueue[Mapping[str, str]], stop: StopRequest) -> str | None:
    failure, share = folder / ".work" / FAILURE, free.get()
    failure.unlink(missing_ok=True)
    try:
        # Processes of a run that has just ended may still hold the lock.
        with Store(folder.parent).lock(folder, lambda _: None):
            start(Launch(), folder, stop, DeviceShare(read_stage(folder).name, share))
    except StageError:
        if not failure.exists():
            raise
        return failure.read_text(encoding="utf-8")
    finally:
        free.put(share)
    return None
