"""Turns SIGINT and SIGTERM into a request to stop; a second one ends the process at once.

Python runs its handlers in the main thread between two bytecode instructions, and therefore not while that
thread waits for another process in a collective operation. A second thread counts the signals too: the system
writes each of them to a socket (`signal.set_wakeup_fd`).

Processes that are forked in the meantime, such as workers of a data loader, are needed for the current step.
They ignore both signals until this process exits.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hfpipe.distributed.world import is_launched
from hfpipe.interruption import RESUME, StopRequest

CAUGHT = (signal.SIGINT, signal.SIGTERM)
ECHO = 5.0
"""Seconds in which a launched process treats a second signal as the first, forwarded by the launcher."""


@contextmanager
def catch_signals(*, announces: bool) -> Iterator[StopRequest]:
    """Yield the stop request that a signal sets; signals are caught only in the main thread.

    `announces` prints what happens next.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    catcher = _Catcher(stop, announces=announces)
    catcher.begin()
    try:
        yield stop
    finally:
        catcher.end()


class _Catcher:
    """The signal handlers, and the thread that counts signals, active from `begin` to `end`."""

    def __init__(self, stop: StopRequest, *, announces: bool) -> None:
        self._stop, self._announces = stop, announces
        stop.outlive = self._ignore
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._left = mmap.mmap(-1, 1)
        """1 once this process stops catching signals; shared with forked processes."""
        self._before: dict[int, Any] = {}
        self._wake_before = -1
        self._thread = threading.Thread(target=self._count, name="signals", daemon=True)

    def begin(self) -> None:
        """Catch the signals that are not ignored; a shell ignores them for background processes."""
        caught = [number for number in CAUGHT if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._handle) for number in caught}
        self._wake_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)

            def ignore_in_child() -> None:
                if (catcher := reference()) is not None:
                    catcher._ignore()

            os.register_at_fork(after_in_child=ignore_in_child)

    def end(self) -> None:
        """Restore the previous handlers."""
        signal.set_wakeup_fd(self._wake_before)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}
        self._left[0] = 1
        self._wake.shutdown(socket.SHUT_RDWR)  # forked processes may have it open
        self._thread.join()
        self._wake.close()
        self._woken.close()

    def _handle(self, number: int, _: Any) -> None:
        self._stop.ask(number)

    def _count(self) -> None:
        first: float | None = None
        while numbers := self._woken.recv(64):
            for number in numbers:
                if number not in CAUGHT:
                    continue
                now = time.monotonic()
                if first is None:
                    first = now
                    self._announce(number)
                    self._stop.heard(number)
                elif not is_launched() or now - first > ECHO:
                    self._leave_process(number)

    def _announce(self, number: int) -> None:
        if self._announces and self._stop.is_deferred:
            name = signal.Signals(number).name
            _print(f"{name}: stops after the next step, with a checkpoint; send it again to stop at once")

    def _leave_process(self, number: int) -> None:
        if self._announces:
            _print(f"{signal.Signals(number).name}: stopped at once; {RESUME}")
        os._exit(128 + number)

    def _ignore(self) -> None:
        """Ignore signals in a process that was forked from this one."""
        if not self._before:
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end_forked)

    def _end_forked(self, *_: Any) -> None:
        if self._left[0]:
            os._exit(0)  # otherwise torch treats it as a failure of the worker


def _print(text: str) -> None:
    os.write(2, f"hfpipe: {text}\n".encode())
