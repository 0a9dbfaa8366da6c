"""Joining the processes of a run: where the coordinator listens, how members find it, and how they end."""

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
from hfpipe.store.files import write_whole

log = logging.getLogger(__name__)

COORDINATOR = "HFPIPE_COORDINATOR"
"""Environment variable that names the file with the coordinator's address, set by `hfpipe run`."""
_HANDSHAKE = 10.0
"""Seconds that a coordinator has to answer."""
_FIRST = 1.0
"""Seconds that a process waits for the one that prints the cause: a launcher that sees one end kills all."""
_LAST_WORDS = 1.0
"""Seconds that writing to the log may take while a process ends; its disk may be gone."""


@dataclass
class Started:
    """The processes that `hfpipe run` starts, as it sees them."""

    environ: dict[str, str]
    """Variables that they need."""
    failed: threading.Event = field(default_factory=threading.Event)
    """Set once one of them has failed or died."""
    cause: str = ""
    """Why, when `failed` is set."""
    member: Member = field(init=False)
    """The part in the run of the process that starts them."""

    def fail(self, cause: str, _: bool = True) -> None:
        """Keep the first cause."""
        self.cause = self.cause or cause
        self.failed.set()


@contextmanager
def coordinate(processes: int, patience: float = PATIENCE) -> Iterator[Started]:
    """Watch the processes that this one starts meanwhile, on this machine.

    When none has got further for `patience` seconds, the position of each is printed.
    """
    with _listening(None, range(processes), patience) as (address, folder):
        path = folder / "address.json"
        _publish(path, address)
        started = Started({COORDINATOR: str(path)})
        started.member = Member(None, _connector(path), started.fail)
        try:
            yield started
        finally:
            started.member.leave()


@contextmanager
def join_run(stop: StopRequest | None = None) -> Iterator[Member]:
    """Be one of the processes that `hfpipe run` started. Raises StageError when none did."""
    if COORDINATOR not in os.environ:
        raise StageError("`hfpipe stage` is started by `hfpipe run RECIPE --processes N`; run that")
    member = Member(world.rank(), _connector(Path(os.environ[COORDINATOR])), end_process)
    with _join(member, stop, prints=False):
        yield member


@contextmanager
def join_launcher(root: Path, stop: StopRequest | None = None) -> Iterator[Member | Alone]:
    """Be one of the processes of a launcher if one started this; `root` is a folder that all of them see."""
    if not world.is_launched():
        yield Alone()
        return
    names = (os.environ.get("MASTER_ADDR", "localhost"), os.environ.get("MASTER_PORT", ""))
    path = root / ".locks" / f"processes-{'-'.join(names).replace('/', '_')}.json"
    # What an MPI starts may have a parent that ends first; elastic launchers stay.
    launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    if world.rank() != 0:
        me = ProcessIdentity.here(world.rank())
        presence = Presence(path, me, world.world_size())
        connect = _waiting_connector(path, presence)
        member = Member(me.rank, connect, end_process, launcher, presence.missing)
        try:
            with _join(member, stop, prints=True):
                yield member
        finally:
            presence.remove()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _listening(0, range(world.world_size())) as (address, _):
        _publish(path, address)
        try:
            member = Member(0, _connector(path), end_process, launcher)
            with _join(member, stop, prints=True):
                yield member
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _join(member: Member, stop: StopRequest | None, *, prints: bool) -> Iterator[None]:
    if stop is not None:
        stop.heard = member.hear
    try:
        with member.reporting(prints=prints):
            yield
    finally:
        member.leave()


def end_process(cause: str, prints: bool) -> None:
    """End this process from any of its threads; its main thread may wait for a process that is lost."""
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
def _listening(
    rank: int | None, ranks: range, patience: float = PATIENCE
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Run a coordinator in this process; yields its address, and a folder that is removed at the end."""
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
    """Return a listening socket and how to reach it: by the network only if there are several machines."""
    if world.local_world_size() == world.world_size():
        path = str(folder / "coordinator")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(128)
        return listener, {"path": path}
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    # On all interfaces: a machine's own name is often a loopback address to itself.
    listener = socket.create_server(("", 0), family=family, backlog=1024, dualstack_ipv6=dual)
    return listener, {"host": os.environ.get("MASTER_ADDR", "localhost"), "port": listener.getsockname()[1]}


def _publish(path: Path, address: dict[str, Any]) -> None:
    write_whole(path, json.dumps(address))
    path.chmod(0o600)  # who knows the token can end the run


def _connector(path: Path) -> Callable[[ProcessIdentity], Connection]:
    """Return what connects to a coordinator that is there, whose address is in a file, for a `Member`."""

    def connect(me: ProcessIdentity) -> Connection:
        if (found := _connect(path, me)) is None:
            cause = "the `hfpipe run` that started this process has ended"
            raise UnreachedError(cause, prints=world.local_rank() == 0)
        return found

    return connect


def _waiting_connector(path: Path, presence: Presence) -> Callable[[ProcessIdentity], Connection | None]:
    """Return what connects to a coordinator that may still come, for a `Member`."""
    wait = world.rendezvous()
    deadline = time.monotonic() + wait

    def connect(me: ProcessIdentity) -> Connection | None:
        presence.renew()
        if (found := _connect(path, me)) is not None:
            presence.remove()
        elif time.monotonic() > deadline:
            cause = describe_missing(presence.missing(), describe_rendezvous(wait))
            raise UnreachedError(cause, prints=presence.is_first_here())
        return found

    return connect


def _connect(path: Path, me: ProcessIdentity) -> Connection | None:
    with suppress(OSError, ValueError, KeyError):  # not there yet, or left behind by a killed run
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
