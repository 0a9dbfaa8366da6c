"""What all processes of a run are connected to: it notices when one is lost, and ends the others."""

from __future__ import annotations

import hmac
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hfpipe.distributed import world
from hfpipe.runner.supervision.channel import Channel, close_after_fork
from hfpipe.runner.supervision.identity import (
    ProcessIdentity,
    describe_end,
    describe_missing,
    describe_rendezvous,
)
from hfpipe.runner.supervision.member import GRACE, describe_place

PATIENCE = 120.0
"""Seconds without progress of any process after which the position of each is printed; doubled each time."""
_ANSWER = 5.0
"""Seconds that a process has to say which line it is at."""


@dataclass
class _Seat:
    """What is known of one member."""

    channel: Channel
    identity: ProcessIdentity
    left: bool = False
    """Whether it said that it leaves."""
    at: dict[str, Any] = field(default_factory=dict)
    """Its stage, the stage's place in the recipe and its progress."""
    line: str | None = None
    """Its position in the Python code, at the last request."""

    def describe(self, cause: str) -> str:
        """Return a cause with this member's place in the recipe in front."""
        return describe_place(str(self.at.get("stage", "")), str(self.at.get("place", ""))) + cause

    def standing(self) -> str:
        """Return the position of the member in words."""
        found = [self.at.get("progress") or self.at.get("stage"), self.line]
        return ", ".join(str(part) for part in found if part) or "has not started"


class Coordinator:
    """Serves the members' connections in a thread, from `start` to `close`.

    Args:
        listener: Socket that members connect to.
        token: What a member has to know.
        rank: Number of the process that this is in, None for `hfpipe run`.
        ranks: Processes that have to come.
        patience: Seconds without progress after which the position of each process is printed.
    """

    def __init__(
        self,
        listener: socket.socket,
        token: str,
        rank: int | None,
        ranks: Iterable[int],
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._listener, self._token = listener, token
        self._me = ProcessIdentity.here(rank)
        self._awaited = set(ranks)
        self._arrival = time.monotonic() + world.rendezvous()
        """When every process has to have come."""
        self._stopping = ""
        """The signal that has made that earlier."""
        self._patience = patience
        self._moved = time.monotonic()
        self._requested_at: float | None = None
        """When the positions of the members were requested; None after they were reported."""
        self._strangers: set[Channel] = set()
        self._seats: dict[Channel, _Seat] = {}
        self._ended = False
        self._signal: int | None = None
        """Signal that was passed on to the members, as to those that are still to come."""
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        for connection in (listener, self._wake, self._woken):
            close_after_fork(connection)
        self._thread = threading.Thread(target=self._serve, name="coordinator", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Let the members go, who may work on, and stop."""
        self._wake.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(timeout=min(1.0, self._patience / 4)):
                if key.fileobj is self._woken:
                    self._dismiss()
                    return
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    self._read_channel(key.data)
            self._check_arrival()
            self._check_progress()

    def _dismiss(self) -> None:
        for channel in (*self._seats, *self._strangers):
            channel.send(kind="dismissed")
            channel.close()
        self._listener.close()
        self._woken.close()
        self._selector.close()

    def _accept(self) -> None:
        with suppress(OSError):
            channel = Channel(self._listener.accept()[0])
            self._strangers.add(channel)
            self._selector.register(channel, selectors.EVENT_READ, channel)

    def _read_channel(self, channel: Channel) -> None:
        for message in channel.receive():
            if channel in self._seats:
                self._handle(self._seats[channel], message)
            elif not self._welcome(channel, message):
                channel.end = "closed"
        if channel.end is None:
            return
        self._selector.unregister(channel)
        channel.close()
        self._strangers.discard(channel)
        seat = self._seats.pop(channel, None)
        if seat is not None and not seat.left:
            self._end_members(seat, seat.describe(self._describe_loss(seat)), printed=False)

    def _describe_loss(self, seat: _Seat) -> str:
        assert seat.channel.end is not None
        return describe_end(seat.identity, self._me, seat.channel.end, str(seat.at.get("progress", "")))

    def _welcome(self, channel: Channel, message: dict[str, Any]) -> bool:
        token = message.get("token")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            return False
        seat = _Seat(channel, ProcessIdentity.read(message["identity"]))
        self._strangers.discard(channel)
        self._seats[channel] = seat
        self._awaited.discard(_rank(seat))
        self._moved, self._requested_at = time.monotonic(), None
        channel.send(kind="welcome", identity=self._me.as_json())
        self._send_signal(seat)
        return True

    def _handle(self, seat: _Seat, message: dict[str, Any]) -> None:
        kind = message.pop("kind", None)
        if kind == "at":
            seat.at, seat.line = message, None
            self._moved, self._requested_at = time.monotonic(), None
        elif kind == "line":
            seat.line = str(message.get("line"))
        elif kind == "left":
            seat.left = True
            seat.channel.send(kind="dismissed")
        elif kind == "signal":
            self._signal = int(message["number"])
            for other in self._seats.values():
                self._send_signal(other)
        elif kind == "stopping" and not self._stopping and self._signal is None:
            # As launchers do when another process is lost; `hfpipe run` passes on what a person sends.
            name = signal.Signals(int(message["number"])).name
            self._stopping = f"before {seat.identity} was stopped by {name}"
            self._arrival = min(self._arrival, time.monotonic() + GRACE)
        elif kind == "failed":
            self._end_members(seat, str(message.get("cause")), printed=bool(message.get("prints")))

    def _send_signal(self, seat: _Seat) -> None:
        """Pass a signal on that came to `hfpipe run`, which has it already."""
        if self._signal is not None and seat.identity.rank is not None:
            seat.channel.send(kind="signal", number=self._signal)

    def _end_members(self, source: _Seat | None, cause: str, *, printed: bool) -> None:
        """Tell all members to end, and one on each terminal to print the cause.

        `source` has failed: it prints that itself if `printed`, and learns that it was the first.
        """
        if self._ended:
            return
        self._ended = True
        terminals = set()
        if source is not None:
            source.channel.send(kind="noted", missing=sorted(self._awaited))
            terminals = {source.identity.terminal} if printed else set()
        seats = sorted(self._seats.values(), key=self._ending_order)
        started_here = any(seat is not None and seat.identity.rank is None for seat in (source, *seats))
        for seat in seats:
            if seat is not source:
                first = not started_here and seat.identity.terminal not in terminals
                terminals.add(seat.identity.terminal)
                seat.channel.send(kind="end", cause=cause, prints=first or seat.identity.rank is None)

    def _ending_order(self, seat: _Seat) -> tuple[bool, int]:
        """Order members by rank, the one in this process last: it takes the coordinator with it."""
        return seat.identity.pid == self._me.pid, _rank(seat)

    def _check_arrival(self) -> None:
        if not self._awaited or self._ended or time.monotonic() < self._arrival:
            return
        first = min(self._seats.values(), key=self._ending_order, default=None)
        if first is not None:
            when = self._stopping or describe_rendezvous(world.rendezvous())
            self._end_members(None, first.describe(describe_missing(self._awaited, when)), printed=False)

    def _check_progress(self) -> None:
        """Ask where the members stand when nothing has moved for long, and have their answers printed."""
        now = time.monotonic()
        if self._ended or not self._seats:
            return
        if self._requested_at is not None:
            if now - self._requested_at > min(_ANSWER, self._patience) or all(
                seat.line for seat in self._seats.values()
            ):
                self._report_standings(now)
        elif now - self._moved > self._patience:
            self._requested_at = now
            for seat in self._seats.values():
                seat.line = None
                seat.channel.send(kind="where")

    def _report_standings(self, now: float) -> None:
        seats = sorted((seat for seat in self._seats.values() if seat.identity.rank is not None), key=_rank)
        lines = [f"no process has got further for {self._patience:.0f} s:"]
        for seat in seats:
            answer = "" if seat.line else ", does not answer"
            lines.append(f"    {seat.identity} on {seat.identity.host}: {seat.standing()}{answer}")
        lines += [f"    process {rank}: has not come" for rank in sorted(self._awaited)]
        first = min(self._seats.values(), key=_rank)
        first.channel.send(kind="say", text="\n".join(lines))
        self._requested_at, self._moved, self._patience = None, now, 2 * self._patience


def _rank(seat: _Seat) -> int:
    return -1 if seat.identity.rank is None else seat.identity.rank
