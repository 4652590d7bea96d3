"""One connection: an `asyncio.Protocol` of our own, with TLS inside it.

A session takes its octets in one of two styles. A coroutine calls `await wire.read(deadline)`; what has not been
read is bounded, because reading from the peer pauses at INBOX_MAX. Or a `Session` is attached and called back: no
task, no buffer, which is what makes ten thousand held connections cheap.

TLS runs over memory buffers inside `data_received`, so STARTTLS switches synchronously: no octet that came before
the switch can be answered after it (CVE-2011-0411 and its family). `start_tls` with octets still unread aborts.

    open --close()--> closing (flushes, discards what comes in, at most CLOSING_TIME) --> lost
      `----abort() or the peer ----------------------------------------------------------> lost
"""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

from gatepost.aio.tunnel import Tunnel
from gatepost.aio.wheel import NEVER, Wheel
from gatepost.base.envelope import Tls

INBOX_MAX: Final = 65_536
CLOSING_TIME: Final = 10.0  # s until a peer that does not take our last octets is cut off
HANDSHAKE_TIME: Final = 30.0  # s
LEAVING_TIME: Final = 5.0  # s for a handshake that was under way when the server began to drain
PREFACE_TIME: Final = 5.0  # s for a balancer to say whom it speaks for (postscreen_upstream_proxy_timeout)
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST


Preface = Callable[["Wire", bytes], bytes | None]
"""Take octets that stand before the conversation, even before TLS; return those that stand behind it once it is
whole, None as long as it is not, and after closing the wire."""


class Session(Protocol):
    """What is called back by a wire it was attached to; all calls come on the loop."""

    def received(self, octets: bytes) -> None:
        """Take what the peer sent."""
        ...

    def lost(self) -> None:
        """Learn that the connection is over; called once, nothing follows."""
        ...

    def due(self, steady: float) -> None:
        """Act on the time asked for by `wire.wake_at`."""
        ...


class Wire(asyncio.Protocol):
    """One TCP or Unix connection, plain or TLS.

    `peer_ip` is normalised text (a v4-mapped IPv6 address is the IPv4 one); on a Unix socket it is 127.0.0.1.
    `peer_uid` is the user who connected to a Unix socket, as the kernel says; else -1.
    `goodbye` is what may be said to the peer when the server drains while the session waits in `read`, e.g. a 421
    line; the session empties it for as long as it must not be interrupted. `courtesy` is for how many seconds it is
    not said yet: what a client came for, it may still do. `probe`: a balancer connected to see whether we live.
    """

    __slots__ = (
        "_closing",
        "_drained",
        "_due",
        "_eof",
        "_held",
        "_inbox",
        "_limit",
        "_opened",
        "_preface",
        "_reader",
        "_released",
        "_session",
        "_shaken",
        "_stuffed",
        "_transport",
        "_tunnel",
        "_wheel",
        "courtesy",
        "goodbye",
        "leaving",
        "local_ip",
        "local_port",
        "peer_ip",
        "peer_port",
        "peer_uid",
        "probe",
        "tick",
        "tls",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        opened: Callable[["Wire"], None] | None = None,
        released: Callable[["Wire"], None] | None = None,
        tls: ssl.SSLContext | None = None,
        preface: Preface | None = None,
    ) -> None:
        """Make a wire that calls `opened` when it can be spoken on (after `preface`, which has PREFACE_TIME, and
        the handshake of `tls`) and `released` when it is lost, each at most once.
        """
        self.peer_ip = self.local_ip = ""
        self.peer_port = self.local_port = 0
        self.peer_uid = -1
        self.tls: Tls | None = None
        self.goodbye = b""
        self.courtesy = 0.0
        self.leaving = self.probe = False
        self.tick = 0
        self._wheel = Wheel.of(loop)
        self._opened = opened
        self._released = released
        self._preface = preface
        self._transport: asyncio.Transport | None = None
        self._tunnel = None if tls is None else Tunnel(tls, server_side=True)
        self._session: Session | None = None
        self._inbox = b""
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._shaken: asyncio.Future[None] | None = None
        self._closing = self._eof = self._held = self._stuffed = False
        self._due = self._limit = NEVER

    # What sessions call

    @property
    def closed(self) -> bool:
        """Tell whether nothing more can be said: closed by us, or lost."""
        return self._closing or self._transport is None

    @property
    def attached(self) -> bool:
        """Tell whether a callback session has it."""
        return self._session is not None

    @property
    def waiting(self) -> bool:
        """Tell whether a coroutine waits in `read` with nothing to take."""
        return self._reader is not None and not self._inbox

    def write(self, octets: bytes) -> None:
        """Send; after the end of the connection this does nothing."""
        if self._closing or self._transport is None:
            return
        if self._tunnel is None:
            self._transport.write(octets)
        else:
            self._tunnel.send(octets)
            self._flush(self._transport)

    async def drain(self, deadline: float | None = None) -> None:
        """Wait until the peer has taken most of what was written.

        Raises TimeoutError when the steady clock passes `deadline`, ConnectionResetError when the wire is lost.
        """
        if self._transport is None:
            raise ConnectionResetError("the connection is lost")
        if not self._stuffed:
            return
        assert self._drained is None, "two coroutines drain one wire"
        self._drained = self._wheel.loop.create_future()
        self._wait_until(deadline)
        try:
            await self._drained
        finally:
            self._drained = None
            self._due = NEVER

    async def read(self, deadline: float | None = None) -> bytes:
        """Return what has come in, at least one octet; b"" at the end of the connection, for ever.

        Raises TimeoutError when the steady clock passes `deadline` (None: wait for ever). What was written before
        is on its way; only one coroutine reads.
        """
        if not self._inbox:
            if self.leaving:
                self._take_leave()
            if self._eof:
                return b""
            await self._more(deadline)
        octets, self._inbox = self._inbox, b""
        if self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()
        return octets

    def attach(self, session: Session) -> None:
        """Call `session` back from now on, first with what has already come in."""
        self._session = session
        if self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()
        octets, self._inbox = self._inbox, b""
        if octets:
            session.received(octets)
        if self._eof and not self._closing:
            self.close()
        elif self.leaving:
            self._take_leave()

    def wake_at(self, steady: float) -> None:
        """Call the session's `due` once, when the steady clock has passed `steady` (within a tenth of a second).

        A later call replaces an earlier one; `NEVER` takes it back.
        """
        self._due = steady
        self._schedule()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Switch the server's side to TLS, at once: the next octet from the peer is its ClientHello.

        The caller guarantees that its own buffer is empty and that its go-ahead is written. Octets that came
        but were not read are an injection: the wire is aborted. A handshake has HANDSHAKE_TIME.
        """
        assert self._tunnel is None, "TLS inside TLS"
        if self._inbox:
            self.abort()
            return
        self._tunnel = Tunnel(context, server_side=True)
        self._limit = time.monotonic() + HANDSHAKE_TIME
        self._schedule()

    async def start_tls_client(self, context: ssl.SSLContext, server_hostname: str | None, timeout: float) -> None:  # noqa: ASYNC109
        """Do the client's handshake; afterwards `tls` tells its facts.

        Raises ssl.SSLError (ssl.CertificateError when the name or the chain does not verify), TimeoutError,
        ConnectionResetError; the wire is then closed.
        """
        if self._inbox or self._transport is None:
            self.abort()
            raise ConnectionResetError("the server spoke before the handshake")
        self._tunnel = Tunnel(context, server_side=False, server_hostname=server_hostname)
        self._tunnel.start()
        self._flush(self._transport)
        self._shaken = self._wheel.loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._shaken
        except TimeoutError:
            self.abort()
            raise
        finally:
            self._shaken = None

    def peer_chain(self) -> tuple[bytes, ...]:
        """Return the certificates the peer showed, leaf first, as DER; empty without TLS."""
        return () if self._tunnel is None else self._tunnel.chain()

    def close(self) -> None:
        """Send what was written (and close_notify), then close.

        Octets that the peer sends meanwhile are discarded until it closes too, for CLOSING_TIME at most: a socket
        that is closed before it was read to its end answers with a reset, and what we said last is lost on the way
        (RFC 9293 §3.6.1). Only a peer that we have called, and one that said nothing when we drained, is not waited
        for. One that has not taken all by then is cut off: `drain` first when much is on its way.
        """
        transport = self._transport
        if self._closing or transport is None:
            return
        if self._tunnel is not None:
            self._tunnel.end()
            self._flush(transport)
        called_us = self._released is not None
        talking = bool(self._inbox or self._held) or (called_us and not self.leaving)
        linger = talking and not self._eof
        self._finish()
        if linger:
            if self._held:
                transport.resume_reading()
            transport.write_eof()
        else:
            transport.close()
        self._limit = time.monotonic() + CLOSING_TIME
        self._schedule()

    def abort(self) -> None:
        """Close at once with a reset; what was written may be lost."""
        transport = self._transport
        self._finish()
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            except OSError:
                pass
        transport.abort()

    def dismiss(self) -> None:
        """Ask the session to leave: `goodbye` is said once it waits in `read`; a callback session ends now."""
        self.leaving = True
        if self._opening:
            self._limit = min(self._limit, time.monotonic() + LEAVING_TIME)
            self._schedule()
        elif self._session is not None or self.waiting:
            self._take_leave()

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Learn the transport."""
        self._transport = cast(
            asyncio.Transport, transport
        )  # every loop hands a stream protocol a stream transport
        if self._closing:
            self._transport.abort()
        elif self._preface is not None:
            self._limit = time.monotonic() + PREFACE_TIME
            self._schedule()
        else:
            self._begin()

    def data_received(self, octets: bytes) -> None:
        """Take what the peer sent."""
        if self._preface is not None and not self._closing:
            rest = self._preface(self, octets)
            if rest is None:
                return
            self._preface = None
            self._begin()
            octets = rest
        if self._closing or not octets:
            return
        if self._tunnel is None:
            self._deliver(octets)
            return
        try:
            plain = self._tunnel.receive(octets)
        except ssl.SSLError as error:
            self._broken(error)
            return
        if self._transport is not None:
            self._flush(self._transport)
        if self.tls is None and self._tunnel.established:
            self._established(self._tunnel)
        if plain and not self._closing:
            self._deliver(plain)
        if self._tunnel.ended:
            self.eof_received()

    def eof_received(self) -> bool:
        """Take the peer's end: a coroutine may still answer what came before it; a callback session is over."""
        if self._closing or self._session is not None or self._opening:
            if self._transport is not None:
                self._transport.close()
            return False
        self._eof = True
        self._wake_reader()
        return True

    def pause_writing(self) -> None:
        """Stop: the peer does not take what we say. A callback session then hears nothing more either."""
        self._stuffed = True
        if self._session is not None and not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._stuffed = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self._session is not None and self._held and self._transport is not None:
            self._held = False
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait that it is over; a second call does nothing."""
        self._transport = None
        self._opened = None
        self._eof = self._closing = True
        self._due = self._limit = NEVER
        if self.tick:
            self._wheel.drop(self)
        self._wake_reader()
        for future in (self._drained, self._shaken):
            if future is not None and not future.done():
                future.set_exception(ConnectionResetError("the connection is lost"))
        session, self._session = self._session, None
        released, self._released = self._released, None
        try:
            if session is not None:
                session.lost()
        finally:
            if released is not None:
                released(self)

    # What the wheel calls

    def next_due(self) -> float:
        """Return the nearer of the session's deadline and our own."""
        return min(self._due, self._limit)

    def woken(self, steady: float) -> None:
        """Act on a deadline that has passed."""
        if self._limit <= steady:
            self._expired()
            return
        self._due = NEVER
        if self._session is not None:  # held ones are woken 18,000 times a second: what costs nothing comes first
            self._session.due(steady)
        else:
            for future in (self._reader, self._drained):
                if future is not None:
                    if not future.done():
                        future.set_exception(TimeoutError("the peer took too long"))
                    break
        if not self.tick:
            self._schedule()

    # The rest

    @property
    def _opening(self) -> bool:
        """Tell whether a preface or a handshake is under way."""
        return self._preface is not None or (self._tunnel is not None and self.tls is None)

    def _begin(self) -> None:
        if self._tunnel is None:
            self._limit = NEVER
            self._open()
        else:
            self._limit = time.monotonic() + HANDSHAKE_TIME
            self._schedule()

    def _expired(self) -> None:
        if self._closing or self._opening or not self.leaving:
            self.abort()
            return
        self._limit = NEVER
        self._schedule()
        if self.waiting:
            self._say_goodbye()

    def _take_leave(self) -> None:
        if self._session is None and self.courtesy:
            self._limit = min(self._limit, time.monotonic() + self.courtesy)
            self._schedule()
        else:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._session is not None or self.goodbye:
            self.write(self.goodbye)
            self.close()

    async def _more(self, deadline: float | None) -> None:
        assert self._reader is None, "two coroutines read one wire"
        self._reader = self._wheel.loop.create_future()
        self._wait_until(deadline)
        try:
            await self._reader
        finally:
            self._reader = None
            self._due = NEVER

    def _wait_until(self, deadline: float | None) -> None:
        if deadline is not None:
            self._due = deadline
            self._schedule()

    def _schedule(self) -> None:
        due = min(self._due, self._limit)
        if due != NEVER:
            self._wheel.put(self, due)

    def _open(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened(self)

    def _established(self, tunnel: Tunnel) -> None:
        self._limit = NEVER
        self.tls = tunnel.facts()
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_result(None)
        self._open()

    def _broken(self, error: ssl.SSLError) -> None:
        transport = self._transport
        if self._shaken is not None and not self._shaken.done():
            self._shaken.set_exception(error)
        if transport is None:
            return
        self._flush(transport)  # the alert
        self._finish()
        transport.close()
        self._limit = time.monotonic() + CLOSING_TIME
        self._schedule()

    def _finish(self) -> None:
        self._closing = self._eof = True
        self._inbox = b""
        self._due = NEVER
        self._wake_reader()

    def _deliver(self, octets: bytes) -> None:
        if self._session is not None:
            self._session.received(octets)
            return
        self._inbox = self._inbox + octets if self._inbox else octets
        if len(self._inbox) >= INBOX_MAX and not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _flush(self, transport: asyncio.Transport) -> None:
        if self._tunnel is not None and (records := self._tunnel.outgoing()):
            transport.write(records)


async def connect(host_ip: str, port: int, *, local_ip: str | None = None, timeout: float) -> Wire:  # noqa: ASYNC109
    """Connect to an address (never a name); raises OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    local = None if local_ip is None else (local_ip, 0)
    async with asyncio.timeout(timeout):
        transport, wire = await loop.create_connection(lambda: Wire(loop), host_ip, port, local_addr=local)
    wire.peer_ip, wire.peer_port = host_ip, port
    wire.local_ip, wire.local_port = transport.get_extra_info("sockname")[:2]
    return wire


async def connect_unix(path: str, *, timeout: float) -> Wire:  # noqa: ASYNC109
    """Connect to a Unix stream socket; raises OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        _, wire = await loop.create_unix_connection(lambda: Wire(loop), path)
    wire.peer_ip = wire.local_ip = "127.0.0.1"
    return wire
