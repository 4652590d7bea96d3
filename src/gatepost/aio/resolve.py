"""A stub resolver: asks the machine's resolver, believes it only when it must, remembers, never blocks.

Each question goes out from a socket of its own (an ephemeral port the kernel picks at random) under a random id;
datagrams with another id or question are ignored and the wait goes on (RFC 5452). After TRY_TIME the next try
starts while the first still listens. Truncated answers are asked again by TCP. Equal questions in flight share one
exchange.

Failure is a value: a server that fails or keeps silent gives Status.SERVFAIL, which callers treat as temporary. The
AD bit counts only from a resolver that is trusted and near: on loopback, or configured so (RFC 6840 §5.8, RFC 7672
§2.1).
"""

import asyncio
import errno
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Final, Generic, TypeVar, cast

from gatepost.aio.dns import (
    CNAME_DEPTH,
    Looping,
    Malformed,
    Mx,
    Rcode,
    Record,
    Reply,
    Srv,
    Tlsa,
    Type,
    name_octets,
    parse_reply,
    query,
    reverse_name,
)
from gatepost.aio.drive import connect
from gatepost.aio.peer import is_loopback
from gatepost.base.address import fold_domain
from gatepost.base.clock import Clock

TRY_TIME: Final = 5.0  # s
TRIES: Final = 2
TTL_LEAST: Final = 1  # s
TTL_MOST: Final = 86_400  # s
TTL_NEGATIVE: Final = 60  # s, when no SOA says (RFC 2308 §5 forbids caching for ever)
TTL_FAILURE: Final = 5  # s (RFC 9520 §3.2: at least 1 s, at most 5 min)
CACHE_MAX: Final = 20_000
IN_FLIGHT_MAX: Final = 256  # sockets
WAITING_MAX: Final = 2_000
_DATAGRAM: Final = 65_535
_TCP_MAX: Final = 65_535

T = TypeVar("T")
Server = tuple[str, int]


class Status(Enum):
    """How a question ended."""

    OK = "ok"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    SERVFAIL = "servfail"


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the DNS says. `secure`: validated by a resolver we trust. `name`: where the aliases led.

    `ttl` is what is left, in seconds.
    """

    records: tuple[T, ...]
    secure: bool
    status: Status
    name: str = ""
    ttl: int = 0

    @property
    def temporary(self) -> bool:
        """Tell whether asking later may give another answer: the question failed."""
        return self.status is Status.SERVFAIL

    def __bool__(self) -> bool:
        """Tell whether there are records."""
        return bool(self.records)


_Key = tuple[str, Type]


class Resolver:
    """Ask `servers` in turn; at most CACHE_MAX answers are kept, by the least recently made."""

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        clock: Clock,
        trusted: bool = False,
        try_time: float = TRY_TIME,
        tries: int = TRIES,
    ) -> None:
        """Make a resolver. `trusted` says that AD may be believed from servers that are not on loopback."""
        if not servers:
            raise ValueError("a resolver needs a server")
        self._servers = tuple(servers)
        self._clock = clock
        self._trusted = trusted
        self._try_time = try_time
        self._tries = tries
        self._cache: dict[_Key, tuple[Answer[Record], float]] = {}
        self._asking: dict[_Key, asyncio.Task[Answer[Record]]] = {}
        self._room = asyncio.Semaphore(IN_FLIGHT_MAX)
        self.asked = 0
        """Questions that went out, for the metrics."""

    async def a(self, name: str) -> Answer[str]:
        """Return IPv4 addresses."""
        return cast(Answer[str], await self._find(name, Type.A))  # the type decides what _record makes

    async def aaaa(self, name: str) -> Answer[str]:
        """Return IPv6 addresses."""
        return cast(Answer[str], await self._find(name, Type.AAAA))  # as above

    async def addresses(self, name: str) -> Answer[str]:
        """Return IPv4, then IPv6 addresses; when one kind fails, those of the other."""
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self.a(name)), group.create_task(self.aaaa(name))
        four, six = asked[0].result(), asked[1].result()
        both = (four.status, six.status)
        if four or six:
            status = Status.OK
        else:
            worst = (Status.SERVFAIL, Status.NXDOMAIN)
            status = next((each for each in worst if each in both), Status.NODATA)
        secure = all(each.secure for each in (four, six) if each or not (four or six))
        return Answer(four.records + six.records, secure, status, four.name or six.name, min(four.ttl, six.ttl))

    async def txt(self, name: str) -> Answer[bytes]:
        """Return TXT records, each with its strings joined (RFC 7208 §3.3)."""
        return cast(Answer[bytes], await self._find(name, Type.TXT))  # as above

    async def mx(self, name: str) -> Answer[Mx]:
        """Return MX records by preference; a null MX (RFC 7505) is one record with host ""."""
        answer = cast(Answer[Mx], await self._find(name, Type.MX))  # as above
        return replace(answer, records=tuple(sorted(answer.records, key=lambda mx: mx.preference)))

    async def ptr(self, ip: str) -> Answer[str]:
        """Return the names an address points to; ValueError when `ip` is none."""
        return cast(Answer[str], await self._find(reverse_name(ip), Type.PTR))  # as above

    async def cname(self, name: str) -> Answer[str]:
        """Return the alias record of `name` itself; the alias is not followed."""
        return cast(Answer[str], await self._find(name, Type.CNAME))  # as above

    async def srv(self, name: str) -> Answer[Srv]:
        """Return SRV records, the preferred first."""
        found = cast(Answer[Srv], await self._find(name, Type.SRV))  # as above
        return replace(found, records=tuple(sorted(found.records, key=lambda each: (each.priority, -each.weight))))

    async def tlsa(self, name: str) -> Answer[Tlsa]:
        """Return TLSA records, e.g. of `_25._tcp.mx.example`; use them only when the answer is secure."""
        return cast(Answer[Tlsa], await self._find(name, Type.TLSA))  # as above

    async def close(self) -> None:
        """Drop all questions in flight; who waits for one gets SERVFAIL."""
        for task in self._asking.values():
            task.cancel()
        if self._asking:
            await asyncio.wait(self._asking.values())

    async def _find(self, name: str, kind: Type) -> Answer[Record]:
        name = fold_domain(name)
        try:
            name_octets(name)
        except ValueError:
            return Answer((), False, Status.NXDOMAIN, name)  # nobody can have registered it
        key = (name, kind)
        if (known := self._recall(key)) is not None:
            return known
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= WAITING_MAX:
                return _failure(name)
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._ask(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        await asyncio.wait((task,))  # a caller that is cancelled leaves the question to the others
        return _failure(name) if task.cancelled() else task.result()

    def _recall(self, key: _Key) -> Answer[Record] | None:
        known = self._cache.get(key)
        if known is None:
            return None
        answer, end = known
        left = end - self._clock.steady()
        if left <= 0:
            del self._cache[key]
            return None
        return replace(answer, ttl=int(left))

    async def _ask(self, key: _Key) -> Answer[Record]:
        async with self._room:
            answer = await self._follow(*key)
        while len(self._cache) >= CACHE_MAX:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = (answer, self._clock.steady() + answer.ttl)
        return answer

    async def _follow(self, name: str, kind: Type) -> Answer[Record]:
        """Ask, and ask on where an answer ends in an alias without its target."""
        secure, ttl, depth = True, TTL_MOST, 0
        while True:
            try:
                reply, trusted = await self._exchange(name, kind)
            except (OSError, Looping, TimeoutError):
                return _failure(name)
            secure = secure and reply.authentic and trusted
            status = _status(reply)
            negative = TTL_NEGATIVE if status is not Status.OK else TTL_MOST
            ttl = min(ttl, negative if reply.ttl is None else reply.ttl)
            depth += reply.chased
            if status is not Status.NODATA or reply.name == name:
                if status is Status.SERVFAIL or depth > CNAME_DEPTH:
                    return _failure(name)
                return Answer(reply.records, secure, status, reply.name, max(ttl, TTL_LEAST))
            depth += 1
            if depth > CNAME_DEPTH:
                return _failure(name)
            name = reply.name

    async def _exchange(self, name: str, kind: Type) -> tuple[Reply, bool]:
        """Return the first usable reply and whether its server's AD counts."""
        exchange = _Exchange(name, kind)
        failed: tuple[Reply, bool] | None = None
        try:
            for turn in range(max(self._tries, len(self._servers))):
                server = self._servers[turn % len(self._servers)]
                self.asked += 1
                got = await self._try(exchange, server)
                if got is None:
                    continue
                reply, answerer = got
                near = self._trusted or is_loopback(answerer[0])
                if reply.truncated:
                    reply = await self._by_tcp(answerer, name, kind)
                if reply.rcode in (Rcode.NOERROR, Rcode.NXDOMAIN):
                    return reply, near
                if reply.rcode in (Rcode.FORMERR, Rcode.NOTIMP):
                    exchange.edns = False  # a server from before RFC 6891
                failed = reply, near
                if len(self._servers) == 1 and exchange.edns:
                    break  # it has told us; asking again at once only adds to its load
        finally:
            exchange.close()
        if failed is None:
            raise TimeoutError("no server answered")
        return failed

    async def _try(self, exchange: "_Exchange", server: Server) -> tuple[Reply, Server] | None:
        try:
            exchange.send(server)
            async with asyncio.timeout(self._try_time):
                return await exchange.reply()
        except (OSError, TimeoutError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                await asyncio.sleep(self._try_time / 10)
            return None

    async def _by_tcp(self, server: Server, name: str, kind: Type) -> Reply:
        number = secrets.randbits(16)
        question = query(number, name, kind)
        deadline = self._clock.steady() + self._try_time
        wire = await connect(server[0], server[1], timeout=self._try_time)
        try:
            wire.write(struct.pack("!H", len(question)) + question)
            octets = b""
            while len(octets) < 2 or len(octets) < 2 + int.from_bytes(octets[:2]):
                more = await wire.read(deadline)
                if not more:
                    raise ConnectionResetError("the answer ended early")
                octets += more
                if len(octets) > 2 + _TCP_MAX:
                    break
            reply = parse_reply(octets[2 : 2 + int.from_bytes(octets[:2])], number, name, kind)
        except Malformed as error:
            raise ConnectionError("no answer to our question by TCP") from error
        finally:
            wire.close()
        if reply.truncated:
            raise ConnectionError("truncated by TCP too")
        return reply


class _Exchange:
    """One question with its sockets: each try has one of its own, and all stay open until the end."""

    def __init__(self, name: str, kind: Type) -> None:
        self.edns = True
        self._name = name
        self._kind = kind
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._replies: asyncio.Queue[tuple[Reply, Server] | OSError | Looping] = asyncio.Queue()

    def send(self, server: Server) -> None:
        """Ask `server` from a fresh port; raises OSError."""
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._sockets.append(sock)
        sock.connect(server)  # binds to a random port, and the kernel drops what comes from elsewhere
        number = secrets.randbits(16)
        sock.send(query(number, self._name, self._kind, edns=self.edns))
        self._loop.add_reader(sock.fileno(), self._heard, sock, number, server)

    async def reply(self) -> tuple[Reply, Server]:
        """Wait for the next answer to any of the tries; raises OSError (refused) or Looping."""
        got = await self._replies.get()
        if isinstance(got, Exception):
            raise got
        return got

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _heard(self, sock: socket.socket, number: int, server: Server) -> None:
        try:
            octets = sock.recv(_DATAGRAM)
            self._replies.put_nowait((parse_reply(octets, number, self._name, self._kind), server))
        except (BlockingIOError, Malformed):
            return
        except (OSError, Looping) as error:
            self._replies.put_nowait(error)


def system_servers(path: Path = Path("/etc/resolv.conf")) -> tuple[Server, ...]:
    """Return the machine's resolvers (resolv.conf(5)); 127.0.0.1 when it names none."""
    try:
        lines = path.read_text("ascii", "replace").split("\n")
    except OSError:
        lines = []
    words = (line.split() for line in lines)
    servers = tuple((word[1], 53) for word in words if len(word) > 1 and word[0] == "nameserver")
    return servers[:3] or (("127.0.0.1", 53),)


def _status(reply: Reply) -> Status:
    if reply.rcode == Rcode.NXDOMAIN:
        return Status.NXDOMAIN
    if reply.rcode != Rcode.NOERROR:
        return Status.SERVFAIL
    return Status.OK if reply.records else Status.NODATA


def _failure(name: str) -> Answer[Record]:
    return Answer((), False, Status.SERVFAIL, name, TTL_FAILURE)
