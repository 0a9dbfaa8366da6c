"""The coordinator, to which all processes of a run connect: if one is lost, it ends the others."""

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
"""Seconds that a process has to answer with its current line."""


@dataclass
class _ConnectedMember:
    """State of a connected member."""

    channel: Channel
    identity: ProcessIdentity
    left: bool = False
    """Whether it has announced that it leaves."""
    at: dict[str, Any] = field(default_factory=dict)
    """Its stage, the position of the stage in the recipe, and its progress."""
    line: str | None = None
    """Its position in the Python code, at the last request."""

    def describe(self, cause: str) -> str:
        """Return a cause, prefixed with the stage of this member and its position in the recipe."""
        return describe_place(str(self.at.get("stage", "")), str(self.at.get("place", ""))) + cause

    def describe_position(self) -> str:
        """Return the position of the member in words."""
        found = [self.at.get("progress") or self.at.get("stage"), self.line]
        return ", ".join(str(part) for part in found if part) or "has not started"


class Coordinator:
    """Serves the members' connections in a thread, from `start` to `close`.

    Args:
        listener: Socket that members connect to.
        token: Secret that a member must send.
        rank: Rank of the process of the coordinator, None for `hfpipe run`.
        ranks: Ranks of the processes that must connect.
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
        self._me = ProcessIdentity.identify_self(rank)
        self._awaited = set(ranks)
        self._arrival = time.monotonic() + world.get_rendezvous_timeout()
        """Time by which every process must have connected."""
        self._stopping = ""
        """Description of the signal that made this time earlier; empty without one."""
        self._patience = patience
        self._moved = time.monotonic()
        self._requested_at: float | None = None
        """When the positions of the members were requested; None after they were reported."""
        self._unidentified: set[Channel] = set()
        self._members: dict[Channel, _ConnectedMember] = {}
        self._ended = False
        self._signal: int | None = None
        """Signal that was forwarded to the members, also to those that connect later."""
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        for connection in (listener, self._wake, self._woken):
            close_after_fork(connection)
        self._thread = threading.Thread(target=self._serve, name="coordinator", daemon=True)

    def start(self) -> None:
        """Start serving."""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Dismiss the members, which may continue to work, and stop."""
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
        for channel in (*self._members, *self._unidentified):
            channel.send(kind="dismissed")
            channel.close()
        self._listener.close()
        self._woken.close()
        self._selector.close()

    def _accept(self) -> None:
        with suppress(OSError):
            channel = Channel(self._listener.accept()[0])
            self._unidentified.add(channel)
            self._selector.register(channel, selectors.EVENT_READ, channel)

    def _read_channel(self, channel: Channel) -> None:
        for message in channel.receive():
            if channel in self._members:
                self._handle(self._members[channel], message)
            elif not self._welcome(channel, message):
                channel.end = "closed"
        if channel.end is None:
            return
        self._selector.unregister(channel)
        channel.close()
        self._unidentified.discard(channel)
        member = self._members.pop(channel, None)
        if member is not None and not member.left:
            self._end_members(member, member.describe(self._describe_loss(member)), printed=False)

    def _describe_loss(self, member: _ConnectedMember) -> str:
        assert member.channel.end is not None
        return describe_end(member.identity, self._me, member.channel.end, str(member.at.get("progress", "")))

    def _welcome(self, channel: Channel, message: dict[str, Any]) -> bool:
        token = message.get("token")
        if not isinstance(token, str) or not hmac.compare_digest(token.encode(), self._token.encode()):
            return False
        member = _ConnectedMember(channel, ProcessIdentity.read(message["identity"]))
        self._unidentified.discard(channel)
        self._members[channel] = member
        self._awaited.discard(_get_rank(member))
        self._moved, self._requested_at = time.monotonic(), None
        channel.send(kind="welcome", identity=self._me.as_json())
        self._send_signal(member)
        return True

    def _handle(self, member: _ConnectedMember, message: dict[str, Any]) -> None:
        kind = message.pop("kind", None)
        if kind == "at":
            member.at, member.line = message, None
            self._moved, self._requested_at = time.monotonic(), None
        elif kind == "line":
            member.line = str(message.get("line"))
        elif kind == "left":
            member.left = True
            member.channel.send(kind="dismissed")
        elif kind == "signal":
            self._signal = int(message["number"])
            for other in self._members.values():
                self._send_signal(other)
        elif kind == "stopping" and not self._stopping and self._signal is None:
            # Sent by launchers when another process is lost; `hfpipe run` forwards signals of the user.
            name = signal.Signals(int(message["number"])).name
            self._stopping = f"before {member.identity} was stopped by {name}"
            self._arrival = min(self._arrival, time.monotonic() + GRACE)
        elif kind == "failed":
            self._end_members(member, str(message.get("cause")), printed=bool(message.get("prints")))

    def _send_signal(self, member: _ConnectedMember) -> None:
        """Forward a signal that `hfpipe run` received, except to `hfpipe run` itself."""
        if self._signal is not None and member.identity.rank is not None:
            member.channel.send(kind="signal", number=self._signal)

    def _end_members(self, source: _ConnectedMember | None, cause: str, *, printed: bool) -> None:
        """Tell all members to end, and one per terminal to print the cause.

        `source` is the failed member: it prints the cause itself if `printed`, and is told that it was first.
        """
        if self._ended:
            return
        self._ended = True
        terminals = set()
        if source is not None:
            source.channel.send(kind="noted", missing=sorted(self._awaited))
            terminals = {source.identity.terminal} if printed else set()
        members = sorted(self._members.values(), key=self._get_ending_order)
        started_here = any(
            member is not None and member.identity.rank is None for member in (source, *members)
        )
        for member in members:
            if member is not source:
                first = not started_here and member.identity.terminal not in terminals
                terminals.add(member.identity.terminal)
                member.channel.send(kind="end", cause=cause, prints=first or member.identity.rank is None)

    def _get_ending_order(self, member: _ConnectedMember) -> tuple[bool, int]:
        """Return the sort key of a member: its rank; this process is last, as it ends the coordinator."""
        return member.identity.pid == self._me.pid, _get_rank(member)

    def _check_arrival(self) -> None:
        if not self._awaited or self._ended or time.monotonic() < self._arrival:
            return
        first = min(self._members.values(), key=self._get_ending_order, default=None)
        if first is not None:
            when = self._stopping or describe_rendezvous(world.get_rendezvous_timeout())
            self._end_members(None, first.describe(describe_missing(self._awaited, when)), printed=False)

    def _check_progress(self) -> None:
        """Request the positions of the members after a long time without progress, and have them printed."""
        now = time.monotonic()
        if self._ended or not self._members:
            return
        if self._requested_at is not None:
            if now - self._requested_at > min(_ANSWER, self._patience) or all(
                member.line for member in self._members.values()
            ):
                self._report_standings(now)
        elif now - self._moved > self._patience:
            self._requested_at = now
            for member in self._members.values():
                member.line = None
                member.channel.send(kind="where")

    def _report_standings(self, now: float) -> None:
        members = sorted(
            (member for member in self._members.values() if member.identity.rank is not None), key=_get_rank
        )
        lines = [f"no process has made progress for {self._patience:.0f} s:"]
        for member in members:
            answer = "" if member.line else ", does not answer"
            lines.append(
                f"    {member.identity} on {member.identity.host}: {member.describe_position()}{answer}"
            )
        lines += [f"    process {rank}: has not connected" for rank in sorted(self._awaited)]
        first = min(self._members.values(), key=_get_rank)
        first.channel.send(kind="say", text="\n".join(lines))
        self._requested_at, self._moved, self._patience = None, now, 2 * self._patience


def _get_rank(member: _ConnectedMember) -> int:
    return -1 if member.identity.rank is None else member.identity.rank
