"""A process of a run, which reports its position and its failure to the coordinator, and ends on request."""

from __future__ import annotations

import os
import selectors
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfpipe.contract import Advance, Progress
from hfpipe.distributed import world
from hfpipe.errors import HfpipeError
from hfpipe.interruption import RESUME, Interrupted
from hfpipe.runner.supervision.channel import Channel
from hfpipe.runner.supervision.identity import ProcessIdentity, describe_end, name_processes

GRACE = 3.0
"""Seconds that an error waits for a message of another process, which may be its cause."""
_TURN = 1.0
"""Seconds between reports of the position of this process, if it changed."""
_OWN = str(Path(__file__).parents[2])
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})

React = Callable[[str, bool], None]
"""Called from a thread with the cause of the end, and whether this process prints it."""


@dataclass(frozen=True)
class Connection:
    """An established connection to a coordinator."""

    channel: Channel
    token: str
    """Identifies this launch of the run."""
    coordinator: ProcessIdentity
    received: list[dict[str, Any]]
    """Messages received together with the answer."""


class UnreachedError(Exception):
    """The coordinator will not be available; the text is the cause."""

    def __init__(self, cause: str, *, prints: bool) -> None:
        super().__init__(cause)
        self.prints = prints
        """Whether this process prints it."""


class Alone:
    """The only process of a run, without supervision; same interface as `Member`."""

    token = ""

    def set_stage(self, stage: str, place: str) -> None:
        """Do nothing."""

    def track(self, progress: Progress) -> Progress:
        """Return `progress` itself."""
        return progress


class Member:
    """The membership of this process in a run; a thread serves the connection to the coordinator until
    `leave`.

    Args:
        rank: Rank of this process, None for the `hfpipe run` that started the others.
        connect: Returns a connection, or None as long as there is no coordinator. Raises UnreachedError when
            there will be none.
        react: Called when the run ends.
        launcher: PID of the launcher, with which this process ends.
        missing: Returns the processes that have not connected, as long as there is no coordinator.
    """

    def __init__(
        self,
        rank: int | None,
        connect: Callable[[ProcessIdentity], Connection | None],
        react: React,
        launcher: int | None = None,
        missing: Callable[[], Sequence[int]] = lambda: (),
    ) -> None:
        self._me = ProcessIdentity.identify_self(rank)
        self._connect, self._react, self._launcher = connect, react, launcher
        self._connection: Connection | None = None
        self._stage = self._place = self._progress = ""
        self._reported: tuple[str, str, str] | None = None
        self._connected, self._noted, self._leaving = (threading.Event() for _ in range(3))
        self._missing = missing
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._serve, name="member", daemon=True)
        self._thread.start()

    @property
    def token(self) -> str:
        """Identifies this launch of the run; empty until the coordinator has answered."""
        return self._connection.token if self._connection is not None else ""

    def set_stage(self, stage: str, place: str) -> None:
        """Set the current stage of this process, and its position in the recipe."""
        self._stage, self._place, self._progress = stage, place, ""

    def track(self, progress: Progress) -> Progress:
        """Return `progress`, extended to record the progress of this process."""

        @contextmanager
        def observed(title: str, total: int | None) -> Iterator[Advance]:
            far = 0

            def advance_here(done: int, note: str = "") -> None:
                nonlocal far
                far += done
                self._progress = f"{title}, {far:,}" + (f" of {total:,}" if total else "")
                advance(done, note)

            with progress(title, total) as advance:
                self._progress = title
                yield advance_here

        return observed

    @contextmanager
    def report_failure(self, *, prints: bool) -> Iterator[None]:
        """Tell the others why this process fails; `prints` is whether the code that catches the error prints
        it.

        An exception of a library may be due to another process, whose end is then reported within `GRACE`
        seconds and ends this one. Reraises the error, or SystemExit if it is printed elsewhere.
        """
        try:
            yield
        except BaseException as error:  # the others wait for this process, however it ends
            if _is_library_error(error):
                time.sleep(GRACE)
            noted = self.fail(_describe_cause(error), prints=prints)
            if not prints and (noted or isinstance(error, Interrupted)):
                raise SystemExit(1) from error
            if isinstance(error, Interrupted) and (missing := self._missing()):
                raise Interrupted(
                    error.number, f"{error}; {name_processes(missing)} had not connected"
                ) from error
            raise

    def fail(self, cause: str, *, prints: bool) -> bool:
        """Tell the others that the run has failed; return whether this was the first failure."""
        if not self._connected.wait(GRACE):
            return False
        assert self._connection is not None
        self._connection.channel.send(kind="failed", cause=cause, prints=prints)
        return self._noted.wait(GRACE)

    def pass_on(self, number: int) -> None:
        """Forward a signal that this process received to the others."""
        if self._connected.wait(GRACE):
            assert self._connection is not None
            self._connection.channel.send(kind="signal", number=number)

    def note_signal(self, number: int) -> None:
        """Report a signal; called by a thread, as the main thread may be waiting for a missing process."""
        if self._connection is not None:
            self._connection.channel.send(kind="stopping", number=number)

    def leave(self) -> None:
        """Leave the run; the other processes continue."""
        self._leaving.set()
        if self._connection is not None:
            self._connection.channel.send(kind="left")
        self._thread.join(GRACE)
        if self._connection is not None:
            self._connection.channel.close()

    def _serve(self) -> None:
        try:
            while (found := self._connect(self._me)) is None:
                if self._leaving.wait(_TURN / 5):
                    return
                self._check_launcher()
        except UnreachedError as error:
            if not self._leaving.is_set():
                self._react(str(error), error.prints)
            return
        self._listen(found)
        if not self._leaving.is_set():
            self._lose_coordinator(found)

    def _listen(self, found: Connection) -> None:
        """Follow the messages of the coordinator until this process leaves or the connection ends."""
        self._connection = found
        self._missing = lambda: ()
        self._connected.set()
        for message in found.received:
            self._handle(message, found.channel)
        with selectors.DefaultSelector() as selector:
            selector.register(found.channel, selectors.EVENT_READ)
            while not self._leaving.is_set() and found.channel.end is None:
                self._report(found.channel)
                if selector.select(timeout=_TURN):
                    for message in found.channel.receive():
                        self._handle(message, found.channel)
                self._check_launcher()
        if self._leaving.is_set():
            found.channel.send(kind="left")  # again, because this process may leave while connecting

    def _handle(self, message: dict[str, Any], channel: Channel) -> None:
        kind = message.get("kind")
        if kind == "end":
            self._react(str(message["cause"]), bool(message["prints"]))
        elif kind == "noted":
            missing = [int(rank) for rank in message.get("missing", ())]
            self._missing = lambda: missing
            self._noted.set()
        elif kind == "dismissed":
            self._leaving.set()
        elif kind == "signal":
            os.kill(os.getpid(), int(message["number"]))  # delivered to the main thread, as if sent directly
        elif kind == "where":
            channel.send(kind="line", line=_find_line(self._main))
        elif kind == "say":
            os.write(2, f"hfpipe: {message['text']}\n".encode())

    def _report(self, channel: Channel) -> None:
        now = (self._stage, self._place, self._progress)
        if now != self._reported:
            self._reported = now
            channel.send(kind="at", stage=self._stage, place=self._place, progress=self._progress)

    def _check_launcher(self) -> None:
        if self._launcher is not None and os.getppid() != self._launcher:
            self._launcher = None
            # In another thread, because this one has to receive the answer.
            threading.Thread(target=self._end_with_launcher, name="launcher", daemon=True).start()

    def _end_with_launcher(self) -> None:
        cause = self._describe(f"the launcher that started the processes was ended; {RESUME}")
        noted = self.fail(cause, prints=True)
        alone = not self._connected.is_set() and world.get_local_rank() == 0
        self._react(cause, noted or alone)

    def _lose_coordinator(self, connection: Connection) -> None:
        """End this process after the coordinator was lost; the first remaining one of a terminal prints."""
        lost, end = connection.coordinator, connection.channel.end
        assert end is not None
        first_left = int(lost.rank is not None and lost.terminal == self._me.terminal)
        cause = self._describe(describe_end(lost, self._me, end))
        self._react(cause, self._me.rank is None or world.get_local_rank() == first_left)

    def _describe(self, cause: str) -> str:
        return describe_place(self._stage, self._place) + cause


def describe_place(stage: str, place: str) -> str:
    """Return the prefix of messages about a stage: its position in the recipe, and its name."""
    return (f"{place}: " if place else "") + (f"stage {stage}: " if stage else "")


def _is_library_error(error: BaseException) -> bool:
    while isinstance(error, HfpipeError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, Exception) and not isinstance(error, HfpipeError)


def _describe_cause(error: BaseException) -> str:
    if isinstance(error, HfpipeError | Interrupted):
        return str(error)
    if isinstance(error, SystemExit):
        return f"user code ended process {world.get_rank()} with code {error.code}"
    return f"process {world.get_rank()}: {type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _find_line(thread: int) -> str:
    """Return the innermost line of a thread in user code or hfpipe, or else the innermost line."""
    frame = innermost = sys._current_frames().get(thread)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_OWN) or not file.startswith((*_LIBRARIES, "<")):
            break
        frame = frame.f_back
    found = frame or innermost
    return (
        f"in {found.f_code.co_name} ({Path(found.f_code.co_filename).name}:{found.f_lineno})" if found else ""
    )
