"""Which TCP ports of this machine a server can listen on, and why not on the others."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from hfpipe.errors import Problem, RecipeError

HOST = "127.0.0.1"
LAST = 65_535


def check_port(port: int) -> None:
    """Raise RecipeError when no server can listen on a port."""
    if (obstacle := find_obstacle(port)) is not None:
        raise RecipeError([Problem(f"demo: {obstacle}")])


def find_obstacle(port: int) -> str | None:
    """Return why no server can listen on a port, None if one can.

    A port that a server used a moment ago is free, though the system still keeps its closed connections.
    """
    if not 0 < port <= LAST:
        return f"--port {port}: ports are numbers from 1 to {LAST}; choose another, {_suggest()}"
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use; choose another, {_suggest()}"
        return f"port {port} cannot be used ({error.strerror}); choose another, {_suggest()}"
    return None


def find_common_obstacle(ports: Sequence[int]) -> str | None:
    """Return why no server can listen on any of the ports, None if one can."""
    found = None
    for port in ports:
        if (found := find_obstacle(port)) is None:
            return None
    if len(ports) > 1:
        return f"ports {ports[0]} to {ports[-1]} are in use; choose another, {_suggest()}"
    return found


def _suggest() -> str:
    """Return advice with a port that is free now. It is above those that are tried by default."""
    with socket.create_server((HOST, 0)) as free:
        return f"as --port {free.getsockname()[1]}"
