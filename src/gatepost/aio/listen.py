"""A listening socket: accept in batches, count, hand each wire to its session, drain.

The accept loop is our own, on `add_reader`. When descriptors run out (EMFILE), uvloop's server accepts and drops
every client that waits (libuv's spare descriptor; tried); ours leaves the queue alone for a moment and tries again,
so the kernel keeps the clients and the sessions that are open go on (SMTP-30). It also knows the peer before
anything is made for it. A bare protocol costs about the same CPU either way.

A connection of a trusted balancer begins with a PROXY header, before TLS too; from then on the wire's addresses are
those of the balancer's client, for which the limits of a peer are counted. Nobody else is believed: what others
send goes to the session as it is.
"""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from gatepost.aio.drive import PREFACE_TIME, Wire
from gatepost.aio.original import original_destination
from gatepost.aio.peer import is_loopback, peer_key, peer_uid, plain_ip
from gatepost.aio.wheel import NEVER
from gatepost.base.ports import Log
from gatepost.codec.proxy import Local, Malformed, Opening, Proxied

BACKLOG: Final = 1024
BATCH: Final = 32  # accepts a turn of the loop: about 1 ms
BACK_OFF: Final = 0.5  # s to wait when descriptors or memory ran out
SETTLE: Final = 0.05  # s between looks at whether a draining listener is empty
FORCED: Final = 2.0  # s for cancelled sessions to end
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

Accept = Callable[[Wire], Coroutine[object, object, None] | None]
"""Take a wire that can be spoken on. A returned coroutine is run in a task of the listener's, which closes the wire
at its end, unless it gave it a callback session; None means that this was done at once (or the wire closed)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections are taken; 0 is no limit. A peer is an IPv4 address or an IPv6 /64."""

    total: int = 1_000
    per_peer: int = 20
    per_peer_minute: int = 60
    """New connections of a peer within a minute."""
    loopback_exempt: bool = True


class Contexts(Protocol):
    """Where the TLS context of the next connection comes from: `tls.TlsHolder`."""

    @property
    def context(self) -> ssl.SSLContext:
        """The context to serve with now."""
        ...


class Listener:
    """One listening socket of one worker.

    `busy` is sent in clear text to those that the limits turn away, e.g. a 421 line; empty on implicit TLS ports.
    `balancers` tells whether a peer is a balancer whose connections begin with a PROXY header. `redirected`: a
    packet filter sends connections here; a wire's local address is the one that its client dialled.
    """

    def __init__(
        self,
        sock: socket.socket,
        accept: Accept,
        *,
        limits: Limits,
        name: str,
        log: Log,
        tls: Contexts | None = None,
        busy: bytes = b"",
        balancers: Callable[[str], bool] | None = None,
        redirected: bool = False,
        exempt: Callable[[str], bool] | None = None,
    ) -> None:
        """Make it; `exempt` tells which addresses the limits for peers are not for."""
        self._exempt = exempt
        self.name = name
        self.refused = 0
        """Connections turned away by the limits since the start."""
        self._sock = sock
        self._accept = accept
        self._limits = limits
        self._log = log
        self._tls = tls
        self._busy = busy
        self._balancers = balancers
        self._destination = original_destination if redirected else _own_address
        self._let_go = self._released  # one bound method for all wires, not one each
        self._uncounted: dict[Wire, float] = {}
        """Wires of balancers that count for no peer, and by when their header is due."""
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._unmade: dict[Wire, socket.socket] = {}
        self._peers: dict[str | bytes, int] = {}
        self._recent: dict[str | bytes, int] = {}
        self._minute = 0
        self._emptied: asyncio.Event | None = None
        self._listening = False
        self._exhausted = False
        self._local: dict[str, str] = {}
        self._unix = sock.family == socket.AF_UNIX
        self._loop: asyncio.AbstractEventLoop

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._wires)

    def start(self) -> None:
        """Begin to accept, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._sock.setblocking(False)
        self._listening = True
        self._loop.add_reader(self._sock.fileno(), self._ready)

    def renew(self, limits: Limits) -> None:
        """Take other limits; who is here stays."""
        self._limits = limits

    def stop(self) -> None:
        """Accept no more; the socket stays open and its queue is another's to serve."""
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._sock.fileno())

    async def drain(self, grace: float) -> None:
        """Accept no more, ask the sessions to leave, and cut off after `grace` seconds those that have not."""
        self.stop()
        for wire in tuple(self._wires):
            wire.dismiss()
        end = time.monotonic() + grace
        while self._wires or self._tasks:
            if time.monotonic() >= end:
                await self._cut_off()
                return
            await asyncio.sleep(SETTLE)

    async def _cut_off(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=FORCED)
        for wire in tuple(self._wires):
            wire.abort()
        if self._wires:  # the loop tells each of its loss
            self._emptied = asyncio.Event()
            try:
                await asyncio.wait_for(self._emptied.wait(), FORCED)
            except TimeoutError:
                self._log.error("wires_left", listener=self.name, open=len(self._wires))

    def _ready(self) -> None:
        for _ in range(BATCH):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._back_off(error)
                    return
                if error.errno == errno.EINVAL:  # shut down: the server ends
                    self.stop()
                    return
                continue  # the client went away between SYN and accept (accept(2))
            self._exhausted = False
            self._take(sock, address)

    def _back_off(self, error: OSError) -> None:
        if not self._exhausted:
            self._exhausted = True
            self._log.error("accept_exhausted", listener=self.name, error=error.strerror, open=len(self._wires))
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_later(BACK_OFF, self._resume)

    def _resume(self) -> None:
        if self._listening:
            self._loop.add_reader(self._sock.fileno(), self._ready)
            self._ready()

    def _take(self, sock: socket.socket, address: tuple[str, int]) -> None:
        sock.setblocking(False)
        ip, port = ("127.0.0.1", 0) if self._unix else (plain_ip(address[0]), address[1])
        balanced = self._balancers is not None and not self._unix and self._balancers(ip)
        key = None if balanced else self._key(ip)
        if not self._admits(key):
            self._turn_away(sock)
            return
        wire = Wire(
            self._loop,
            opened=self._opened,
            released=self._let_go,
            tls=None if self._tls is None else self._tls.context,
            preface=partial(self._introduced, Opening()) if balanced else None,
        )
        if balanced:
            self._uncounted[wire] = time.monotonic() + PREFACE_TIME
        wire.peer_ip, wire.peer_port = ip, port
        if self._unix:
            wire.local_ip = "127.0.0.1"
            wire.peer_uid = peer_uid(sock)
        else:
            local_ip, wire.local_port = self._destination(sock)
            wire.local_ip = self._local.get(local_ip) or self._learn(local_ip)
        self._count(key)
        self._wires.add(wire)
        self._unmade[wire] = sock
        made = self._loop.connect_accepted_socket(partial(self._hand_over, wire), sock)
        self._own(made).add_done_callback(partial(self._connected, wire))

    def _introduced(self, opening: Opening, wire: Wire, octets: bytes) -> bytes | None:
        """Take a balancer's header (a Preface of the wire): learn whom it speaks for."""
        try:
            origin = opening.receive(octets)
        except Malformed as wrong:
            self._log.warning("proxy_header_refused", listener=self.name, balancer=wire.peer_ip, error=str(wrong))
            self._uncounted[wire] = NEVER
            wire.abort()
            return None
        match origin:
            case None:
                return None
            case Local():
                wire.probe = True
                self._uncounted[wire] = NEVER
            case Proxied() if not self._comes_in(wire, origin):
                return None
        return opening.rest

    def _comes_in(self, wire: Wire, origin: Proxied) -> bool:
        """Let the wire be that of a balancer's client; tell whether the limits admit it.

        A client on the balancer's own machine (its loopback, or the address it listens on) is not on ours: it is
        known by the address that the balancer has for us.
        """
        ours = is_loopback(wire.peer_ip)
        if ours or not (is_loopback(origin.ip) or origin.ip == origin.local_ip):
            wire.peer_ip, wire.peer_port = origin.ip, origin.port
            wire.local_ip, wire.local_port = origin.local_ip, origin.local_port
        key = self._key(wire.peer_ip)
        if not self._admits_peer(key):
            self.refused += 1
            self._uncounted[wire] = NEVER
            if self._busy:
                wire.write(self._busy)
            wire.close()
            return False
        del self._uncounted[wire]
        self._count(key)
        return True

    def _hand_over(self, wire: Wire) -> Wire:
        """Be the protocol factory: from here on the socket is the transport's."""
        del self._unmade[wire]
        return wire

    def _connected(self, wire: Wire, task: asyncio.Task[object]) -> None:
        sock = self._unmade.pop(wire, None)
        if sock is not None:  # cancelled before it began
            sock.close()
            self._released(wire)
        elif task.cancelled():
            wire.abort()
            wire.connection_lost(None)  # uvloop does not tell it when the making of a connection is cancelled
        elif task.exception() is not None:
            wire.abort()

    def _admits(self, key: str | bytes | None) -> bool:
        if self._limits.total and len(self._wires) >= self._limits.total:
            return False
        return self._admits_peer(key)

    def _admits_peer(self, key: str | bytes | None) -> bool:
        limits = self._limits
        if key is None:
            return True
        if limits.per_peer and self._peers.get(key, 0) >= limits.per_peer:
            return False
        if not limits.per_peer_minute:
            return True
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._recent.clear()
        count = self._recent[key] = self._recent.get(key, 0) + 1
        return count <= limits.per_peer_minute

    def _key(self, ip: str) -> str | bytes | None:
        if (self._limits.loopback_exempt and is_loopback(ip)) or (self._exempt is not None and self._exempt(ip)):
            return None
        return peer_key(ip)

    def _count(self, key: str | bytes | None) -> None:
        if key is not None:
            self._peers[key] = self._peers.get(key, 0) + 1

    def _turn_away(self, sock: socket.socket) -> None:
        self.refused += 1
        try:
            if self._busy:
                sock.send(self._busy)
        except OSError:
            pass
        finally:
            sock.close()

    def _opened(self, wire: Wire) -> None:
        session = self._accept(wire)
        if session is not None:
            self._own(session).add_done_callback(partial(self._ended, wire))

    def _ended(self, wire: Wire, task: asyncio.Task[object]) -> None:
        """Close the wire of a session that is over, however it ended; a callback session goes on with it."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, TimeoutError):
            self._log.info("session_timed_out", listener=self.name, peer=wire.peer_ip)
        elif error is not None and not isinstance(error, ConnectionError):  # that one: nobody left to tell
            self._log.error("session_failed", listener=self.name, peer=wire.peer_ip, exc_info=error)
            wire.abort()
        if not wire.attached:
            wire.close()

    def _own(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _released(self, wire: Wire) -> None:
        if wire not in self._wires:
            return
        self._wires.discard(wire)
        if self._emptied is not None and not self._wires:
            self._emptied.set()
        due = self._uncounted.pop(wire, None)
        if due is not None:
            if time.monotonic() >= due:
                self._log.warning(
                    "proxy_header_missing",
                    listener=self.name,
                    balancer=wire.peer_ip,
                    text="It is named in `proxy`, so each of its connections must begin with a PROXY header.",
                )
            return
        key = self._key(wire.peer_ip)
        if key is None:
            return
        left = self._peers.get(key, 0) - 1
        if left > 0:
            self._peers[key] = left
        else:
            self._peers.pop(key, None)

    def _learn(self, local_ip: str) -> str:
        if len(self._local) > 1_000:
            self._local.clear()
        return self._local.setdefault(local_ip, plain_ip(local_ip))


def _own_address(sock: socket.socket) -> tuple[str, int]:
    ip, port = sock.getsockname()[:2]
    return ip, port
