"""The links with neighbours: TCP connections that drive a `codec.bgp.session.Session` each, and are made anew.

    Idle --(idle hold over)--> Connect --(refused, no answer)--> Active --(connect retry)--> Connect ...
      ^                           `--(connected)--> OpenSent ... Established     (or it called us, but in Idle)
      `--------------------------------(any end)---------'

After an end that nobody wished for the link is idle for 30 s, then twice as long each time, up to an hour, until a
session was stable (RFC 4271 §8.1.1, DampPeerOscillations). Of two connections at once the one survives that the end
with the higher BGP identifier made (RFC 4271 §6.8, RFC 6286 §2.3).

Octets are decoded in slices, and other tasks run between them, so no step takes longer than a sink needs for one
message; while they are, nothing more is read, and TCP slows the neighbour down.
"""

import asyncio
import errno
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import Final, Protocol

from gatepost.base.clock import Clock
from gatepost.base.ports import Log
from gatepost.codec.bgp.message import Cease, Code
from gatepost.codec.bgp.session import Session
from gatepost.codec.bgp.types import (
    Afi,
    Complaint,
    Counts,
    Ended,
    EndOfRib,
    Established,
    Event,
    Local,
    Peer,
    RefreshAsked,
    State,
    Update,
)
from gatepost.feeds.bgp.link import Loss, Sink, Up
from gatepost.feeds.bgp.plan import Plan
from gatepost.feeds.bgp.settings import NeighborSettings
from gatepost.feeds.bgp.show import Messages

PORT: Final = 179
READ: Final = 65_536
SLICE: Final = 1024  # octets that are decoded at once: 0.5 ms where all paths differ
STEP_S: Final = 0.0005  # after which other tasks get their turn
UNSENT_MAX: Final = 4096  # octets: all we ever send are some 19 now and then
TALKS_MAX: Final = 2
COMPLAINTS_MAX: Final = 10  # lines of the log in COMPLAINTS_S, for each neighbour
COMPLAINTS_S: Final = 60.0
BACKLOG: Final = 16
BACK_OFF: Final = 0.5  # s to wait when descriptors ran out

_TCP_MD5SIG: Final = 14  # linux/tcp.h; Python has no names for these three
_IP_MINTTL: Final = 21
_IPV6_MINHOPCOUNT: Final = 73
_MD5SIG: Final = struct.Struct("=128sBBHi80s")  # struct tcp_md5sig
_TTL_MAX: Final = 255
_EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_VERSIONS: Final = {Afi.IPV4: 4, Afi.IPV6: 6}
_UNWANTED: Final = (0, Code.HOLD_TIMER)  # codes with which nobody ended the session on purpose


def _jitter() -> float:
    return random.uniform(0.75, 1.0)  # noqa: S311  (RFC 4271 §10: that neighbours do not call in step)


@dataclass(frozen=True, slots=True)
class Times:
    """How long a link waits, in seconds."""

    connect: float = 30.0
    """For a connection to be made."""
    connect_retry: float = 120.0
    """Between two of them (RFC 4271 §10)."""
    idle_hold: float = 30.0
    """After the first end; doubled after each that follows."""
    idle_hold_max: float = 3600.0
    stable: float = 300.0
    """A session that lasted so long was stable: the next idle hold is the first again."""
    closing: float = 1.0
    """For a NOTIFICATION to be taken, before the connection is closed."""
    jitter: Callable[[], float] = _jitter
    """What waits are multiplied with."""


@dataclass(frozen=True, slots=True)
class Terms:
    """All that a link needs to know."""

    local: Local
    peer: Peer
    address: str
    port: int = PORT
    name: str = ""
    local_address: str = ""
    multihop: int = 0
    """Hops; 0 is a direct neighbour."""
    ttl_security: bool = False
    key: bytes = b""
    """Of TCP MD5 signatures (RFC 2385); empty for none."""
    passive: bool = False
    down: bool = False
    restart: float = 0.0
    """Seconds after which a neighbour that announced too much is called again; 0 is never."""

    @classmethod
    def of(cls, settings: NeighborSettings, plan: Plan) -> "Terms":
        """Take them from the settings."""
        families = [afi for afi, wanted in ((Afi.IPV4, settings.ipv4), (Afi.IPV6, settings.ipv6)) if wanted]
        holdtime = plan.holdtime if settings.holdtime is None else settings.holdtime
        local = Local(
            asn=plan.asn,
            bgp_id=int(IPv4Address(plan.router_id)),
            hold_time=round(holdtime),
            hold_min=round(plan.holdtime_min),
            capabilities=settings.announce_capabilities,
            families=tuple(families) or (Afi.IPV4,),
        )
        return cls(
            local=local,
            peer=Peer(settings.remote_as, settings.enforce_neighbor_as),
            address=str(ip_address(settings.address)),
            port=settings.port,
            name=settings.name,
            local_address=settings.local_address,
            multihop=settings.multihop,
            ttl_security=settings.ttl_security,
            key=settings.key,
            passive=settings.passive,
            down=settings.down,
            restart=settings.max_prefix_restart,
        )

    @property
    def family(self) -> socket.AddressFamily:
        """Return the address family of the connection."""
        return family_of(self.address)


# --- sockets ------------------------------------------------------------------------------------------------


class Sockets(Protocol):
    """Makes sockets to listen on; app may have them from a process that is allowed more."""

    def __call__(self, address: str, port: int) -> socket.socket: ...


def bound(address: str, port: int) -> socket.socket:
    """Return a socket to listen on; raises OSError."""
    sock = socket.socket(family_of(address), socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        _set_ttl(sock, _TTL_MAX)  # of the answer to a SYN: neighbours with GTSM look at that too
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def set_key(sock: socket.socket, address: str, key: bytes) -> None:
    """Sign and demand signatures of what is exchanged with an address (RFC 2385); no key ends that.

    Raises OSError with a text for the operator where the kernel has no TCP MD5 signatures.
    """
    packed = ip_address(address).packed
    if sock.family == socket.AF_INET:
        peer = struct.pack("=HH4s", socket.AF_INET, 0, packed)
    else:
        peer = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packed, 0)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, _MD5SIG.pack(peer, 0, 0, len(key), 0, key))
    except OSError as error:
        if not key and error.errno == errno.ENOENT:
            return  # there was none
        if error.errno in (errno.ENOPROTOOPT, errno.EINVAL, errno.ENOSYS):
            told = "this kernel has no TCP MD5 signatures (CONFIG_TCP_MD5SIG): take md5 out, or take another kernel"
            raise OSError(error.errno, told) from error
        raise


def family_of(address: str) -> socket.AddressFamily:
    """Return the socket family of an address."""
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def prepare(sock: socket.socket, terms: Terms) -> None:
    """Set how far packets go and may have come (RFC 4271 §5.1.3 "one hop", RFC 5082); raises OSError."""
    internal = terms.local.asn == terms.peer.asn
    hops = terms.multihop or (_TTL_MAX if internal else 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _set_ttl(sock, _TTL_MAX if terms.ttl_security else hops)
    if terms.ttl_security:
        least = _TTL_MAX + 1 - (terms.multihop or 1)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MINTTL, least)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MINHOPCOUNT, least)


def _set_ttl(sock: socket.socket, ttl: int) -> None:
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)


# --- one connection -----------------------------------------------------------------------------------------


class _Talk:
    """One connection with its session."""

    def __init__(self, sock: socket.socket, session: Session, *, inbound: bool) -> None:
        self.sock = sock
        self.session = session
        self.inbound = inbound
        self.was_up = False
        self.stopped = False
        """We ended it on purpose: what it still said does not count."""
        self.told = False
        """The sink knows of its end."""
        self.stirred = asyncio.Event()
        """There is something to do: octets to read, or an end that was made elsewhere."""
        self._unsent = b""

    def send(self) -> None:
        """Send what there is, as far as it goes; a neighbour that takes nothing is lost (RFC 9687)."""
        self._unsent += self.session.output()
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._unsent = b""
            self.session.lost(str(error))
        if len(self._unsent) > UNSENT_MAX:
            self.session.lost("it takes nothing that we send")

    def read(self) -> bytes | None:
        """Return what came; None for nothing yet. The end of the connection ends the session."""
        try:
            octets = self.sock.recv(READ)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.session.lost(str(error))
            return b""
        if not octets:
            self.session.lost("it closed the connection")
        return octets

    def stop(self, subcode: Cease, text: str = "") -> None:
        """End it with a CEASE."""
        if self.session.stop(Code.CEASE, subcode, text):
            self.stopped = True
            self.send()
            self.stirred.set()


@dataclass(slots=True)
class _Ending:
    """How an attempt to have a session ended."""

    ended: Ended
    lasted: float = 0.0
    """Seconds that the session was up."""


# --- one neighbour ------------------------------------------------------------------------------------------


class Neighbor:
    """The link with one neighbour (link.Link): calls it, is called by it, and tries again until cancelled."""

    def __init__(
        self,
        terms: Terms,
        *,
        clock: Clock,
        log: Log,
        acceptor: "Acceptor | None" = None,
        times: Times | None = None,
    ) -> None:
        """Make it; without an acceptor it is never called."""
        self.terms = terms
        self.last_read: float | None = None
        self._clock = clock
        self._log = log
        self._acceptor = acceptor
        self._times = times or Times()
        self._idle_hold = self._times.idle_hold
        self._state = State.IDLE
        self._talks: list[_Talk] = []
        self._sent, self._received = Counts(), Counts()
        self._calls: deque[socket.socket] = deque()
        self._called = asyncio.Event()
        self._wanted = asyncio.Event()
        self._hurry = asyncio.Event()
        """Do not wait any longer: an operator said so."""
        self._plain = False
        """The next OPEN is without capabilities: the last was refused for them (RFC 5492 §3)."""
        self._too_many = False
        self._complaints: deque[float] = deque(maxlen=COMPLAINTS_MAX)
        self._sink: Sink
        self._ending: asyncio.Future[_Ending]
        if not terms.down:
            self._wanted.set()

    @property
    def state(self) -> str:
        """Return the state of the session that is furthest."""
        order = tuple(State)
        return max((each.session.state for each in self._talks), key=order.index, default=self._state).value

    @property
    def sent(self) -> Messages:
        """Count what was sent, in all sessions."""
        return _messages(self._sent, *(each.session.sent for each in self._talks))

    @property
    def received(self) -> Messages:
        """Count what was received, in all sessions."""
        return _messages(self._received, *(each.session.received for each in self._talks))

    async def run(self, sink: Sink) -> None:
        """Have sessions until cancelled. Raises OSError where the kernel cannot do what the settings ask for."""
        self._sink = sink
        if self.terms.key:
            with socket.socket(self.terms.family, socket.SOCK_STREAM) as probe:
                set_key(probe, self.terms.address, self.terms.key)
        if self._acceptor is not None:
            self._acceptor.expect(self)
        try:
            while True:
                await self._wanted.wait()
                self._hurry.clear()
                ending = await self._attempt()
                await self._rest(ending)
        finally:
            self._state = State.IDLE
            if self._acceptor is not None:
                self._acceptor.forget(self)

    # --- what operators say ---------------------------------------------------------------------------------

    def up(self) -> None:
        """Have a session, now."""
        self._too_many = False
        self._idle_hold = self._times.idle_hold
        self._wanted.set()
        self._hurry.set()

    def down(self) -> None:
        """End the session and have none until `up`."""
        self._wanted.clear()
        self._stop(Cease.SHUTDOWN, "an operator ended it")

    def clear(self) -> None:
        """End the session and have a new one."""
        self._too_many = False
        self._wanted.set()
        self._hurry.set()
        self._stop(Cease.RESET, "an operator cleared it")

    def refresh(self) -> bool:
        """Ask for everything anew; False where it is not up, or cannot."""
        asked = False
        for talk in self._talks:
            for afi in talk.session.families:
                asked |= talk.session.refresh(afi)
            talk.send()
        return asked

    def overflow(self, why: str) -> None:
        """End the session because too much was announced (RFC 4486 §3)."""
        self._too_many = True
        self._stop(Cease.TOO_MANY_PREFIXES, why)

    def offer(self, sock: socket.socket) -> None:
        """Take a connection that the neighbour made; it is closed where none is wanted now."""
        if (
            self._state is State.IDLE
            or not self._wanted.is_set()
            or len(self._talks) + len(self._calls) >= TALKS_MAX
        ):
            sock.close()
            return
        self._calls.append(sock)
        self._called.set()

    def _stop(self, subcode: Cease, text: str) -> None:
        for talk in self._talks:
            talk.stop(subcode, text)
        if not self._talks and self._state is not State.IDLE and not self._ending.done():
            self._ending.set_result(_Ending(Ended(True, Code.CEASE, subcode, text)))

    # --- attempts -------------------------------------------------------------------------------------------

    async def _attempt(self) -> _Ending:
        """Try to have one session, calling and being called, until all that was tried has ended."""
        self._ending = asyncio.get_running_loop().create_future()
        self._state = State.ACTIVE
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._answer(group))]
                if not self.terms.passive:
                    tasks.append(group.create_task(self._call(group)))
                ending = await self._ending
                for task in tasks:
                    task.cancel()
        finally:
            self._state = State.IDLE
            self._hang_up()
        return ending

    async def _call(self, group: asyncio.TaskGroup) -> None:
        """Call the neighbour until it answers."""
        while True:
            if not self._talks:
                self._state = State.CONNECT
                try:
                    async with asyncio.timeout(self._times.connect):
                        sock = await self._connect()
                except OSError as error:  # TimeoutError is one
                    if not self._talks:
                        why = str(error) or f"no answer in {self._times.connect:.0f} s"
                        self._sink.ended(f"no connection: {why}", Loss.BROKEN)
                else:
                    self._begin(group, sock, inbound=False)
                    return
                finally:
                    self._state = State.ACTIVE
            await _wait(self._hurry, self._times.connect_retry * self._times.jitter())
            if not self._ending.done():
                self._hurry.clear()

    async def _connect(self) -> socket.socket:
        terms = self.terms
        sock = socket.socket(terms.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if terms.key:
                set_key(sock, terms.address, terms.key)
            prepare(sock, terms)
            if terms.local_address:
                sock.bind((terms.local_address, 0))
            await asyncio.get_running_loop().sock_connect(sock, (terms.address, terms.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _answer(self, group: asyncio.TaskGroup) -> None:
        """Take the connections that the neighbour makes."""
        while True:
            await self._called.wait()
            self._called.clear()
            while self._calls:
                sock = self._calls.popleft()
                try:
                    prepare(sock, self.terms)
                except OSError:
                    sock.close()
                else:
                    self._begin(group, sock, inbound=True)

    async def _rest(self, ending: _Ending) -> None:
        """Be idle for as long as the end of the last session asks for."""
        ended, times = ending.ended, self._times
        refused = not ended.by_us and ended.code == Code.OPEN and ended.subcode in (4, 7)
        if refused and not self._plain and self.terms.local.capabilities:
            self._plain = True
            return
        self._plain = False
        if self._too_many:
            self._too_many = False
            if not self.terms.restart:
                self._wanted.clear()
                return
            await _wait(self._hurry, self.terms.restart)
            return
        if not self._wanted.is_set():
            return
        if ending.lasted >= times.stable:
            self._idle_hold = times.idle_hold
        length, self._idle_hold = self._idle_hold, min(2 * self._idle_hold, times.idle_hold_max)
        await _wait(self._hurry, length * times.jitter())

    def _hang_up(self) -> None:
        """Close what was never spoken on."""
        while self._calls:
            self._calls.popleft().close()
        while self._talks:
            self._talks.pop().sock.close()

    # --- a conversation -------------------------------------------------------------------------------------

    def _begin(self, group: asyncio.TaskGroup, sock: socket.socket, *, inbound: bool) -> None:
        """Begin a session over a connection."""
        local = self.terms.local
        if self._plain:
            local = replace(local, capabilities=False, families=(Afi.IPV4,))
        talk = _Talk(sock, Session(local, self.terms.peer, self._clock.steady()), inbound=inbound)
        self._talks.append(talk)
        group.create_task(self._converse(talk))

    async def _converse(self, talk: _Talk) -> None:
        """Drive one session to its end."""
        loop, sock, began = asyncio.get_running_loop(), talk.sock, self._clock.steady()
        try:
            loop.add_reader(sock, talk.stirred.set)
            await self._listen(talk)
            if talk.session.ended is not None and talk.session.ended.by_us:
                await self._see_off(talk)
        finally:
            loop.remove_reader(sock)
            talk.stop(Cease.SHUTDOWN)  # cancelled: the server ends
            sock.close()
            self._talks.remove(talk)
            _add(self._sent, talk.session.sent)
            _add(self._received, talk.session.received)
        assert talk.session.ended is not None
        self._tell_end(talk)
        if not self._talks and not self._ending.done():
            lasted = self._clock.steady() - began if talk.was_up else 0.0
            self._ending.set_result(_Ending(talk.session.ended, lasted))

    async def _listen(self, talk: _Talk) -> None:
        """Read, decode and tell until the session ends."""
        session = talk.session
        talk.send()
        while session.ended is None:
            talk.stirred.clear()
            octets = talk.read()
            if octets:
                self.last_read = self._clock.steady()
                await self._decode(talk, octets)
            self._deliver(talk, session.due(self._clock.steady()))
            talk.send()
            if octets is None and session.ended is None:
                deadline = session.deadline
                await _wait(talk.stirred, None if deadline is None else deadline - self._clock.steady())

    async def _decode(self, talk: _Talk, octets: bytes) -> None:
        """Decode what was read; other tasks get their turn in between."""
        session, steady = talk.session, self._clock.steady
        began = steady()
        for at in range(0, len(octets), SLICE):
            now = steady()
            if now - began >= STEP_S:
                talk.send()
                await asyncio.sleep(0)
                began = now = steady()
            if session.ended is not None:
                return
            events = session.receive(octets[at : at + SLICE], now)
            if not talk.was_up:
                self._resolve(talk)
            self._deliver(talk, events)
            if session.deadline is not None and now >= session.deadline:
                self._deliver(talk, session.due(now))

    async def _see_off(self, talk: _Talk) -> None:
        """Wait until the neighbour has taken our NOTIFICATION: closing with octets unread would destroy it."""
        self._tell_end(talk)
        try:
            talk.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(self._times.closing):
                while True:
                    talk.stirred.clear()
                    octets = talk.read()
                    if octets == b"":
                        return
                    await (talk.stirred.wait() if octets is None else asyncio.sleep(0))
        except OSError:  # TimeoutError is one
            pass

    def _resolve(self, talk: _Talk) -> None:
        """Let one connection survive (RFC 4271 §6.8), once an OPEN has said who calls."""
        if talk.session.state not in (State.OPEN_CONFIRM, State.ESTABLISHED):
            return
        for other in [each for each in self._talks if each is not talk]:
            session = other.session
            if session.ended is not None:
                continue
            if other.was_up:
                restart = session.capabilities.restart
                if restart is None:
                    talk.stop(Cease.COLLISION)
                    return
                session.lost("it called anew")  # RFC 4724 §5: it restarted before we noticed
                self._tell_end(other)
                other.stirred.set()
            elif talk.session.state is State.ESTABLISHED or session.state is State.OPEN_CONFIRM:
                loser = self._loser(talk, other)
                loser.stop(Cease.COLLISION)

    def _loser(self, talk: _Talk, other: _Talk) -> _Talk:
        if talk.inbound == other.inbound:
            return talk
        local, peer = self.terms.local, self.terms.peer
        ours = (local.bgp_id, local.asn) > (talk.session.remote_id, peer.asn)
        return talk if talk.inbound == ours else other

    # --- news -----------------------------------------------------------------------------------------------

    def _deliver(self, talk: _Talk, events: Iterable[Event]) -> None:
        """Tell the sink. It may end the session while it is told."""
        for event in events:
            if talk.told or talk.stopped:
                return
            match event:
                case Update(afi, announced, withdrawn, path):
                    self._sink.updated(_VERSIONS[afi], withdrawn, announced, path)
                case EndOfRib(afi):
                    self._sink.end_of_rib(_VERSIONS[afi])
                case Established():
                    talk.was_up = True
                    self._sink.established(_up(talk.sock, event))
                case Complaint(text):
                    self._complain(text)
                case RefreshAsked() | Ended():
                    pass  # there is nothing to announce; the end is told when all is done

    def _tell_end(self, talk: _Talk) -> None:
        """Tell the sink of the end of a session; of one that never was up, only where nobody else is."""
        ended = talk.session.ended
        if talk.told or ended is None:
            return
        talk.told = True
        if talk.was_up or not any(each.was_up for each in self._talks):
            self._sink.ended(ended.why, _loss(ended))

    def _complain(self, text: str) -> None:
        """Log what is wrong with an UPDATE, some lines a minute."""
        now, seen = self._clock.steady(), self._complaints
        if len(seen) == COMPLAINTS_MAX and now - seen[0] < COMPLAINTS_S:
            return
        seen.append(now)
        self._log.warning("bgp_update_fault", neighbor=self.terms.name or self.terms.address, text=text)


# --- being called -------------------------------------------------------------------------------------------


class Acceptor:
    """Listening sockets, for connections from configured neighbours only."""

    def __init__(self, log: Log, sockets: Sockets = bound) -> None:
        self._log = log
        self._sockets = sockets
        self._open: dict[tuple[str, int], socket.socket] = {}
        self._neighbors: dict[str, Neighbor] = {}

    def listen_on(self, places: Iterable[str]) -> None:
        """Listen at these places, `address` or `address:port`, and at no others; one that cannot be is logged."""
        wanted = set()
        for each in places:
            try:
                wanted.add(place_of(each))
            except ValueError as wrong:
                self._log.error("bgp_cannot_listen", address=each, error=str(wrong))
        for place in self._open.keys() - wanted:
            self._close(place)
        for address, port in sorted(wanted - self._open.keys()):
            try:
                sock = self._sockets(address, port)
            except OSError as error:
                self._log.error("bgp_cannot_listen", address=address, port=port, error=str(error))
                continue
            self._open[address, port] = sock
            for neighbor in self._neighbors.values():
                self._sign(sock, neighbor.terms, neighbor.terms.key)
            sock.listen(BACKLOG)
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def addresses(self) -> list[tuple[str, int]]:
        """Return where it listens in fact."""
        return [sock.getsockname()[:2] for sock in self._open.values()]

    def expect(self, neighbor: Neighbor) -> None:
        """Take connections from a neighbour; not those that were made before its key was set."""
        for sock in self._open.values():
            self._sign(sock, neighbor.terms, neighbor.terms.key)
            while self._accept(sock):
                pass
        self._neighbors[neighbor.terms.address] = neighbor

    def forget(self, neighbor: Neighbor) -> None:
        """Take none any more."""
        if self._neighbors.get(neighbor.terms.address) is neighbor:
            del self._neighbors[neighbor.terms.address]
            for sock in self._open.values():
                self._sign(sock, neighbor.terms, b"")

    def close(self) -> None:
        """Listen no more."""
        for place in tuple(self._open):
            self._close(place)

    def _close(self, place: tuple[str, int]) -> None:
        sock = self._open.pop(place)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()

    def _sign(self, sock: socket.socket, terms: Terms, key: bytes) -> None:
        if sock.family == terms.family and terms.key:
            set_key(sock, terms.address, key)

    def _accept(self, listener: socket.socket) -> bool:
        """Take one connection; False where there is none."""
        try:
            sock, peer = listener.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(BACK_OFF, self._resume, listener)
            return False
        sock.setblocking(False)
        neighbor = self._neighbors.get(str(ip_address(str(peer[0]).partition("%")[0])))
        if neighbor is None:
            sock.close()
        else:
            neighbor.offer(sock)
        return True

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._open.values():
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)


class Speaker:
    """Makes the links of one feed; `speaker.link` is what a BgpFeed is given (link.Linked)."""

    def __init__(self, *, clock: Clock, log: Log, sockets: Sockets = bound, times: Times | None = None) -> None:
        self._clock = clock
        self._log = log
        self._times = times
        self._acceptor = Acceptor(log, sockets)

    def link(self, settings: NeighborSettings, plan: Plan) -> Neighbor:
        """Make the link with a neighbour, and listen where the plan says."""
        self._acceptor.listen_on(plan.listen)
        terms = Terms.of(settings, plan)
        return Neighbor(terms, clock=self._clock, log=self._log, acceptor=self._acceptor, times=self._times)

    def close(self) -> None:
        """Listen no more."""
        self._acceptor.close()


def place_of(text: str) -> tuple[str, int]:
    """Read `192.0.2.1`, `192.0.2.1:1179`, `2001:db8::1` or `[2001:db8::1]:1179`; raises ValueError."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    else:
        address, port = text, ""
    number = int(port) if port else PORT
    if not 0 <= number <= 65_535:
        raise ValueError(f"{text!r} has no usable port")
    return str(ip_address(address)), number


async def _wait(event: asyncio.Event, length: float | None) -> None:
    """Wait for an event, `length` seconds at the most."""
    try:
        async with asyncio.timeout(length):
            await event.wait()
    except TimeoutError:
        pass


def _up(sock: socket.socket, event: Established) -> Up:
    restart = event.peer_capabilities.restart
    kept = frozenset() if restart is None else restart.families & event.families
    return Up(
        remote_id=str(IPv4Address(event.remote_id)),
        holdtime=event.hold_time,
        capabilities=event.peer_capabilities.names,
        restart_s=restart.time if restart is not None and kept else 0,
        restarts=tuple(_VERSIONS[afi] for afi in sorted(kept)),
        local=_place(sock.getsockname),
        remote=_place(sock.getpeername),
    )


def _place(name: Callable[[], tuple[str, int]]) -> str:
    try:
        address, port = name()[:2]
    except OSError:  # the connection may be over already
        return ""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _loss(ended: Ended) -> Loss:
    if ended.graceful:
        return Loss.GRACEFUL
    return Loss.BROKEN if ended.code in _UNWANTED else Loss.WANTED


def _add(total: Counts, more: Counts) -> None:
    total.opens += more.opens
    total.notifications += more.notifications
    total.updates += more.updates
    total.keepalives += more.keepalives
    total.refreshes += more.refreshes


def _messages(*counts: Counts) -> Messages:
    return Messages(*map(sum, zip(*map(astuple, counts), strict=True)))
