"""spamd's configuration channel: programs of this machine send lists to 127.0.0.1:8026 as they do to spamd.

As spamd has it a program must come from a port below 1024, which only root may use, or it is closed without a
word; one is heard at a time, and what it sent counts when it closes. Lists stay until they are cleared, also when
the server starts anew (spamd forgets them).
"""

import asyncio
import socket
from typing import Final, Protocol

from gatepost.aio.offload import Overfull, offload
from gatepost.base.ports import Log
from gatepost.codec.spamd.channel import Bogus, Change, Cleared, Replaced, parse
from gatepost.db.unit import NotCommitted
from gatepost.gate.decide import TABLE_NAMES
from gatepost.gate.networks import Networks
from gatepost.gate.table import TableFull

SOURCE: Final = "channel"
RESERVED_PORTS: Final = 1024
OCTETS_MAX: Final = 64 << 20
PATIENCE_S: Final = 60.0
RETRY_S: Final = 5.0
_PIECE: Final = 1 << 16


class Tables(Protocol):
    """The gate, as the channel sees it."""

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None: ...
    async def unpublish(self, table: str, source: str) -> None: ...


def listen(host: str, port: int) -> socket.socket:
    """Open the channel's port; raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(10)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


async def keep_open(host: str, port: int, tables: Tables, log: Log) -> None:
    """Serve the channel until cancelled; waits for the port where another generation of the server has it."""
    told = False
    while True:
        try:
            sock = listen(host, port)
        except OSError as error:
            if not told:
                log.error("channel_not_open", address=f"{host}:{port}", error=error.strerror)
                told = True
            await asyncio.sleep(RETRY_S)
            continue
        with sock:
            await Channel(sock, tables, log).serve()


class Channel:
    """Takes lists from one program after the other."""

    def __init__(self, sock: socket.socket, tables: Tables, log: Log, *, ports: int = RESERVED_PORTS) -> None:
        """Make it; who comes from a port of `ports` or above is not heard."""
        self._sock = sock
        self._tables = tables
        self._log = log
        self._ports = ports

    async def serve(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._sock)
            except OSError as error:
                self._log.error("channel_not_heard", error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            with sock:
                if address[1] >= self._ports:
                    self._log.warning("channel_refused", peer=address[0], port=address[1])
                    continue
                await self._hear(sock)

    async def _hear(self, sock: socket.socket) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                octets = await _all_of(sock)
            changes = await offload(_understood, octets)
            for change in changes:
                await self._apply(change)
        except (TimeoutError, OSError, ValueError, Overfull) as error:
            self._log.error("channel_broken", error=str(error) or type(error).__name__, text="Nothing was changed.")
        except Exception:
            self._log.exception("channel_failed")

    async def _apply(self, change: tuple[Change, Networks] | Bogus) -> None:
        if isinstance(change, Bogus):
            self._log.warning("channel_bogus", text=f"bogus config line: {change}")
            return
        which, networks = change
        if which.name in TABLE_NAMES:
            self._log.warning("channel_bogus", text=f"{which.name!r} is one of the gate's own tables")
            return
        try:
            if isinstance(which, Cleared):
                await self._tables.unpublish(which.name, SOURCE)
            else:
                await self._tables.publish(which.name, SOURCE, networks, message=which.message)
        except (TableFull, NotCommitted) as error:
            self._log.error("list_kept", list=which.name, error=str(error), text="The list stays as it is.")
            return
        self._log.info("channel_list", list=which.name, entries=len(networks))


async def _all_of(sock: socket.socket) -> bytes:
    """Return what a program sends until it closes; ValueError beyond OCTETS_MAX."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    octets = bytearray()
    while piece := await loop.sock_recv(sock, _PIECE):
        octets += piece
        if len(octets) > OCTETS_MAX:
            raise ValueError(f"more than {OCTETS_MAX} octets at once")
    return bytes(octets)


def _understood(octets: bytes) -> list[tuple[Change, Networks] | Bogus]:
    """Read all lines. In a thread."""
    found: list[tuple[Change, Networks] | Bogus] = []
    for change in parse(octets):
        match change:
            case Bogus():
                found.append(change)
            case Replaced(four=four, six=six):
                found.append((change, Networks.packed(four, six)))
            case Cleared():
                found.append((change, Networks.packed((), ())))
    return found
