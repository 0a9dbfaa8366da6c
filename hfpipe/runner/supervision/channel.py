"""A connection for JSON lines between two processes, which ends when the other one or its machine does."""

from __future__ import annotations

import json
import os
import socket
import weakref
from contextlib import suppress
from threading import Lock
from typing import Any

from hfpipe.distributed.world import silence

_LONGEST = 1 << 20
"""Bytes of a line; ours have some hundred."""


class Channel:
    """One end of a connection; `send` may be called by any thread, `receive` by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = Lock()
        self._rest = b""
        self.end: str | None = None
        """Why there is nothing more to receive: `closed`, or what the system says; None while it is open."""
        if connection.family != getattr(socket, "AF_UNIX", None):
            _send_probes(connection)
        close_after_fork(connection)

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Send a message; that the other side is gone shows when receiving."""
        with self._lock, suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Return the whole messages there are, waiting for some bytes; sets `end` when no more can come."""
        try:
            found = self._socket.recv(1 << 16)
            if not found:
                self.end = "closed"
        except OSError as error:
            found, self.end = b"", "closed" if isinstance(error, ConnectionError) else str(error.strerror)
        *lines, self._rest = (self._rest + found).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
            if len(self._rest) > _LONGEST or not all(isinstance(message, dict) for message in messages):
                raise ValueError
        except ValueError:  # another program uses this port
            self.end, messages = "closed", []
        return messages

    def close(self) -> None:
        """Close the connection; the other side receives what was sent before."""
        self._socket.close()


def _send_probes(connection: socket.socket) -> None:
    """Have the system find out whether the other machine still answers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds, each = silence(), max(1, silence() // 4)
    # See tcp(7): seconds, seconds, a number, and milliseconds for what was sent and not acknowledged.
    probes = {
        "TCP_KEEPIDLE": each,
        "TCP_KEEPINTVL": each,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 1000 * seconds,
    }
    for name, value in probes.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def close_after_fork(connection: socket.socket) -> None:
    """Close a socket in processes that this one forks: theirs would hide the death of this one."""
    reference = weakref.ref(connection)

    def close() -> None:
        if (forked := reference()) is not None:
            forked.close()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)
