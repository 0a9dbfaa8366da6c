"""A run that a signal requests to stop: where the request is kept, and the error that ends the run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

RESUME = "run the same command again to resume"
"""How a run continues that was stopped, as messages say it."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the run; its text says after what, and how to continue.

    It is not an Exception, so that no library takes it for a failure that it may handle.
    """

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text or f"stopped by {signal.Signals(number).name}; {RESUME}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """Exit code of a process that a signal ended, as shells give it."""
        return 128 + self.number


class StopRequest:
    """Whether a signal requested this process to stop, and whether code in it stops without an exception."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Number of the signal, once it has come."""
        self._deferred = False
        self.heard: Callable[[int], None] = lambda _: None
        """Called by a thread with the number of the first signal, even while the main thread waits."""
        self.outlive: Callable[[], None] = lambda: None
        """Called in a forked process that has to outlive the signal, once it has handlers of its own."""

    def __reduce__(self) -> tuple[type[StopRequest], tuple[()]]:
        """Give a spawned process a request of its own."""
        return StopRequest, ()

    def ask(self, number: int) -> None:
        """Ask to stop. Raises Interrupted, unless what runs has promised to look for the request."""
        self.number = self.number or number
        self.check()

    def check(self) -> None:
        """Raise Interrupted if a stop was requested and nothing defers it."""
        if self.number is not None and not self._deferred:
            raise Interrupted(self.number)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Raise no further error once one ends what runs meanwhile, which is then reported in full."""
        try:
            yield
        except BaseException:
            self._deferred = True
            raise

    @property
    def is_deferred(self) -> bool:
        """Whether what runs now looks for the request by itself."""
        return self._deferred

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the caller look at `number` now and then, as after each step, instead of an error at once."""
        before, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = before
