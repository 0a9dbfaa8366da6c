"""A connection for JSON lines between two processes; it ends when the other process or its machine does."""

from __future__ import annotations

import json
import os
import socket
import weakref
from contextlib import suppress
from threading import Lock
from typing import Any

from hfpipe.distributed.world import get_silence_timeout

_LONGEST = 1 << 20
"""Maximum number of bytes of a line; normal ones have a few hundred."""


class Channel:
    """One end of a connection; `send` may be called by any thread, `receive` by one."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = Lock()
        self._rest = b""
        self.end: str | None = None
        """Why the connection ended: `closed`, or the system's message; None while it is open."""
        if connection.family != getattr(socket, "AF_UNIX", None):
            _send_probes(connection)
        close_after_fork(connection)

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._socket.fileno()

    def send(self, **message: Any) -> None:
        """Send a message; a closed connection is detected when receiving."""
        with self._lock, suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """Return the complete messages, waiting for data; sets `end` when the connection has ended."""
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
        except ValueError:  # sent by another program that uses this port
            self.end, messages = "closed", []
        return messages

    def close(self) -> None:
        """Close the connection; the other side receives what was sent before."""
        self._socket.close()


def _send_probes(connection: socket.socket) -> None:
    """Let the system check whether the other machine still answers."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    seconds, each = get_silence_timeout(), max(1, get_silence_timeout() // 4)
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
    """Close a socket in forked processes, whose copies would hide the death of this process."""
    reference = weakref.ref(connection)

    def close() -> None:
        if (forked := reference()) is not None:
            forked.close()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=close)
