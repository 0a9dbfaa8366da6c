"""Connects the processes of a run: the address of the coordinator, how members find it, and how they end."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfpipe.distributed import world
from hfpipe.errors import StageError
from hfpipe.interruption import StopRequest
from hfpipe.runner.supervision.channel import Channel
from hfpipe.runner.supervision.coordinator import PATIENCE, Coordinator
from hfpipe.runner.supervision.identity import ProcessIdentity, describe_missing, describe_rendezvous
from hfpipe.runner.supervision.member import Alone, Connection, Member, UnreachedError
from hfpipe.runner.supervision.presence import Presence
from hfpipe.store.files import write_atomically

log = logging.getLogger(__name__)

COORDINATOR = "HFPIPE_COORDINATOR"
"""Environment variable that names the file with the coordinator's address, set by `hfpipe run`."""
_HANDSHAKE = 10.0
"""Seconds that a coordinator has to answer."""
_FIRST = 1.0
"""Seconds that a process waits for the one that prints: a launcher kills all when one ends."""
_LAST_WORDS = 1.0
"""Seconds that writing to the log may take while a process ends; the disk may be unavailable."""


@dataclass
class Started:
    """The processes that `hfpipe run` starts, from its point of view."""

    environ: dict[str, str]
    """Environment variables that they need."""
    failed: threading.Event = field(default_factory=threading.Event)
    """Set once one of them has failed or died."""
    cause: str = ""
    """The cause, when `failed` is set."""
    member: Member = field(init=False)
    """The membership of the process that starts them."""

    def fail(self, cause: str, _: bool = True) -> None:
        """Record the first cause."""
        self.cause = self.cause or cause
        self.failed.set()


@contextmanager
def coordinate(processes: int, patience: float = PATIENCE) -> Iterator[Started]:
    """Supervise the processes that this one starts in the meantime, on this machine.

    If none makes progress for `patience` seconds, the position of each is printed.
    """
    with _run_coordinator(None, range(processes), patience) as (address, folder):
        path = folder / "address.json"
        _publish(path, address)
        started = Started({COORDINATOR: str(path)})
        started.member = Member(None, _make_connector(path), started.fail)
        try:
            yield started
        finally:
            started.member.leave()


@contextmanager
def join_run(stop: StopRequest | None = None) -> Iterator[Member]:
    """Join the processes that `hfpipe run` started. Raises StageError if it did not start this one."""
    if COORDINATOR not in os.environ:
        raise StageError("`hfpipe stage` is started by `hfpipe run RECIPE --processes N`; run that")
    member = Member(world.get_rank(), _make_connector(Path(os.environ[COORDINATOR])), end_process)
    with _join(member, stop, prints=False):
        yield member


@contextmanager
def join_launcher(root: Path, stop: StopRequest | None = None) -> Iterator[Member | Alone]:
    """Join the processes of a launcher if one started this process; `root` is a folder shared by all."""
    if not world.is_launched():
        yield Alone()
        return
    names = (os.environ.get("MASTER_ADDR", "localhost"), os.environ.get("MASTER_PORT", ""))
    path = root / ".locks" / f"processes-{'-'.join(names).replace('/', '_')}.json"
    # Processes started by MPI may have a parent that ends first; elastic launchers do not.
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    if world.get_rank() != 0:
        identity = ProcessIdentity.identify_self(world.get_rank())
        presence = Presence(path, identity, world.get_world_size())
        connect = _make_waiting_connector(path, presence)
        member = Member(identity.rank, connect, end_process, launcher, presence.find_missing)
        try:
            with _join(member, stop, prints=True):
                yield member
        finally:
            presence.remove()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _run_coordinator(0, range(world.get_world_size())) as (address, _):
        _publish(path, address)
        try:
            member = Member(0, _make_connector(path), end_process, launcher)
            with _join(member, stop, prints=True):
                yield member
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _join(member: Member, stop: StopRequest | None, *, prints: bool) -> Iterator[None]:
    if stop is not None:
        stop.heard = member.note_signal
    try:
        with member.report_failure(prints=prints):
            yield
    finally:
        member.leave()


def end_process(cause: str, prints: bool) -> None:
    """End this process from any thread; the main thread may be waiting for a lost process."""
    if prints:
        with suppress(OSError):
            os.write(2, f"hfpipe: {cause}\n".encode())
    else:
        time.sleep(_FIRST)
    if log.hasHandlers():
        writer = threading.Thread(target=log.error, args=("ends: %s", cause), daemon=True)
        writer.start()
        writer.join(_LAST_WORDS)
    os._exit(1)


@contextmanager
def _run_coordinator(
    rank: int | None, ranks: range, patience: float = PATIENCE
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Run a coordinator in this process; yield its address, and a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="hfpipe-"))
    try:
        token = secrets.token_hex(16)
        listener, address = _listen(folder)
        with listener:
            coordinator = Coordinator(listener, token, rank, ranks, patience=patience)
            coordinator.start()
            try:
                yield {**address, "token": token}, folder
            finally:
                coordinator.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listen(folder: Path) -> tuple[socket.socket, dict[str, Any]]:
    """Return a listening socket and its address: a network address only if there are several machines."""
    if world.get_local_world_size() == world.get_world_size():
        path = str(folder / "coordinator")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(128)
        return listener, {"path": path}
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    # On all interfaces, because the name of a machine often resolves to its loopback address.
    listener = socket.create_server(("", 0), family=family, backlog=1024, dualstack_ipv6=dual)
    return listener, {"host": os.environ.get("MASTER_ADDR", "localhost"), "port": listener.getsockname()[1]}


def _publish(path: Path, address: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(address), private=True)  # who knows the token can end the run


def _make_connector(path: Path) -> Callable[[ProcessIdentity], Connection]:
    """Return a `connect` function for a `Member`, for a running coordinator whose address is in a file."""

    def connect(me: ProcessIdentity) -> Connection:
        if (found := _connect(path, me)) is None:
            cause = "the `hfpipe run` that started this process has ended"
            raise UnreachedError(cause, prints=world.get_local_rank() == 0)
        return found

    return connect


def _make_waiting_connector(path: Path, presence: Presence) -> Callable[[ProcessIdentity], Connection | None]:
    """Return a `connect` function for a `Member`, for a coordinator that may not have started yet."""
    wait = world.get_rendezvous_timeout()
    deadline = time.monotonic() + wait

    def connect(me: ProcessIdentity) -> Connection | None:
        presence.renew()
        if (found := _connect(path, me)) is not None:
            presence.remove()
        elif time.monotonic() > deadline:
            cause = describe_missing(presence.find_missing(), describe_rendezvous(wait))
            raise UnreachedError(cause, prints=presence.is_first_here())
        return found

    return connect


def _connect(path: Path, me: ProcessIdentity) -> Connection | None:
    with suppress(OSError, ValueError, KeyError):  # does not exist yet, or is left over from a killed run
        address = json.loads(path.read_text(encoding="utf-8"))
        return _shake_hands(_connect_to(address), address["token"], me)
    return None


def _connect_to(address: dict[str, Any]) -> socket.socket:
    if "path" not in address:
        return socket.create_connection((address["host"], address["port"]), _HANDSHAKE)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_HANDSHAKE)
    connection.connect(address["path"])
    return connection


def _shake_hands(connection: socket.socket, token: str, me: ProcessIdentity) -> Connection | None:
    channel = Channel(connection)
    channel.send(token=token, identity=me.as_json())
    messages: list[dict[str, Any]] = []
    while channel.end is None and not messages:
        messages = channel.receive()
    if not messages or messages[0].get("kind") != "welcome":
        channel.close()
        return None
    connection.settimeout(None)
    return Connection(channel, token, ProcessIdentity.read(messages[0]["identity"]), messages[1:])
