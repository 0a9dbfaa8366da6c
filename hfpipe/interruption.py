"""Stopping a run by a signal: the stop request, and the exception that ends the run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RESUME = "run the same command again to resume"
"""Advice in messages on how to resume a stopped run."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; the text says where, and how to resume.

    It is not a subclass of Exception, so that libraries do not handle it as a failure.
    """

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text or f"stopped by {signal.Signals(number).name}; {RESUME}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """Exit code of a process that a signal ended, as in shells."""
        return 128 + self.number


class StopRequest:
    """Whether a signal requested this process to stop, and whether running code checks for it."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Number of the signal, once received."""
        self._deferred = False
        self.heard: Callable[[int], None] = lambda _: None
        """Called by a thread with the number of the first signal, even while the main thread waits."""
        self.outlive: Callable[[], None] = lambda: None
        """Called in a forked process that must survive the signal, after it has set its own handlers."""

    def __reduce__(self) -> tuple[type[StopRequest], tuple[()]]:
        """Pickle as a new request, for spawned processes."""
        return StopRequest, ()

    def ask(self, number: int) -> None:
        """Request a stop. Raises Interrupted, unless running code checks for the request itself."""
        self.number = self.number or number
        self.check()

    def check(self) -> None:
        """Raise Interrupted if a stop was requested and nothing defers it."""
        if self.number is not None and not self._deferred:
            raise Interrupted(self.number)

    @contextmanager
    def defer_after_error(self) -> Iterator[None]:
        """Raise no Interrupted after an error, so that the error is reported in full."""
        try:
            yield
        except BaseException:  # an Interrupted as well, which is not raised twice
            self._deferred = True
            raise

    @property
    def is_deferred(self) -> bool:
        """Whether running code checks for the request itself."""
        return self._deferred

    @contextmanager
    def defer(self) -> Iterator[None]:
        """Raise no Interrupted; the caller checks `number` regularly, for example after each step."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before
