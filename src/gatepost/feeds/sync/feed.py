"""Tell other mail servers what the gate learns, and hear what they learn.

Every worker tells, from a socket of its own; the worker of slot 0 also hears, and in our own mode compares:

    news of the gate --a moment later, from gate.db--> RECORDS to all peers
    every interval: SUMS (by the first octet) to all peers
    heard SUMS that differ from ours: SUMS (by the second octet) of up to SUBTREES_MAX of them, to that peer
    heard those, and they differ: RECORDS of these, to that peer; it merges them, and never tells them on

Both sides do so, so that after a line was cut both soon have what either has. In spamd's mode one datagram is one
entry, sent when it happens, and what is lost is lost, as with OpenBSD's. Nobody who has no key is ever answered.
"""

import asyncio
import fcntl
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final, Protocol

from gatepost.base.clock import MICROSECONDS, Clock, Instant
from gatepost.base.ports import Log
from gatepost.codec import peersync
from gatepost.codec.peersync import AGE_MAX, KEY_MIN, STREAM, Kind, Sums, Window
from gatepost.codec.spamd import sync
from gatepost.db.unit import Database, NotCommitted
from gatepost.feeds.sync.records import Ledger, entry_of, record_of, walk, within
from gatepost.feeds.sync.settings import Place, SyncMode, SyncSettings, parse_place
from gatepost.gate import sql
from gatepost.gate.grey import Record

TELL_S: Final = 0.25  # what is learnt is in the database by then
NEWS_MAX: Final = 20_000  # digests that wait to be told; what is more is found by comparing
A_TURN: Final = 500  # records told in one turn
HEARD_AT_ONCE: Final = 16  # datagrams: about 100 µs each
STREAMS_MAX: Final = 1_000
SUBTREES_MAX: Final = 64  # first octets whose sums are sent to a peer in answer to its own
ANSWERS_MAX: Final = 256  # answers that wait for their turn; the next comparison asks again
PACE_S: Final = 0.002  # between two datagrams of an answer: about 5 Mbit/s
REST: Final = 20  # a walk through the greylist is followed by so many times its own length of rest
COMPLAIN_S: Final = 60.0
SIOCGIFADDR: Final = 0x8915


class Gate(Protocol):
    """What the sync needs of the gate."""

    def heard_grey(self, ip: str, helo: bytes, sender: bytes, recipient: bytes) -> None: ...
    def heard_white(self, ip: str, expires: Instant) -> None: ...
    def heard_trapped(self, ip: str, expires: Instant) -> None: ...
    def merge(self, records: Sequence[Record]) -> None: ...


class KeyUnusable(ValueError):
    """A key file that cannot be read or is too short: the text names it."""


@dataclass(slots=True)
class Tally:
    """What came in and went out since the start."""

    sent: int = 0
    heard: int = 0
    """Datagrams that were understood."""
    records: int = 0
    """Entries that were taken."""
    strangers: int = 0
    refused: int = 0
    replayed: int = 0
    late: int = 0
    too_long: int = 0


@dataclass(slots=True)
class _Stream:
    window: Window = field(default_factory=Window)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a peer has otherwise: first octets of digests (`prefix` None), or second ones below `prefix`."""

    prefix: int | None
    other: Sequence[int]
    peer: tuple[str, int]


class Sync:
    """See the module's words. It is `base.ports.News` for the gate."""

    def __init__(
        self,
        settings: SyncSettings,
        *,
        clock: Clock,
        log: Log,
        hears: bool,
        chance: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Make it; `hears`: this worker is the one that hears. Raises KeyUnusable."""
        self._settings = settings
        self._clock = clock
        self._log = log
        self._hears = hears and bool(settings.listen)
        self._keys = read_keys(settings)
        self._stream = chance(STREAM)
        self._started = clock.now()
        self._sequence = self._counter = 0
        self._changed: dict[bytes, None] = {}
        self._streams: dict[bytes, _Stream] = {}
        self._ledger: Ledger | None = None
        self._complained: dict[str, float] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._own_ips: frozenset[str] = frozenset()
        self._answers: asyncio.Queue[_Answer] = asyncio.Queue(ANSWERS_MAX)
        self.tally = Tally()

    # News of the gate

    def grey(self, ip: str, helo: bytes, sender: bytes, recipient: bytes) -> None:
        """Tell of a tuple that was offered here."""
        if self._settings.mode is SyncMode.SPAMD and ":" not in ip:
            self._tell_spamd(sync.Grey(ip, helo, sender, recipient))

    def white(self, ip: str, expires: Instant) -> None:
        """Tell of a host that is white by its mail, or ours."""
        if self._settings.mode is SyncMode.SPAMD and ":" not in ip:
            self._tell_spamd(sync.White(ip, expires // MICROSECONDS))

    def trapped(self, ip: str, expires: Instant) -> None:
        """Tell of a host that wrote to a spamtrap."""
        if self._settings.mode is SyncMode.SPAMD and ":" not in ip:
            self._tell_spamd(sync.Trapped(ip, expires // MICROSECONDS))

    def changed(self, digest: bytes) -> None:
        """Tell of a record, once it is in the database."""
        if self._settings.mode is SyncMode.OWN and self._settings.peers and len(self._changed) < NEWS_MAX:
            self._changed[digest] = None

    # Running

    async def run(self, gate: Gate, database: Database) -> None:
        """Tell and hear until cancelled."""
        if not self._settings.wanted:
            return
        try:
            self._open(gate)
        except OSError as error:
            self._log.error("sync_not_started", error=str(error), listen=self._settings.listen)
            return
        try:
            async with asyncio.TaskGroup() as group:
                if self._settings.mode is SyncMode.OWN:
                    group.create_task(self._keep_telling(database))
                    if self._hears and self._settings.peers:
                        group.create_task(self._keep_comparing(database))
                        group.create_task(self._keep_answering(database))
                await asyncio.Event().wait()
        finally:
            for each in self._sockets.values():
                asyncio.get_running_loop().remove_reader(each.fileno())
                each.close()
            self._sockets.clear()

    def _open(self, gate: Gate) -> None:
        """Open a socket for each family of the peers, and the one that hears."""
        loop = asyncio.get_running_loop()
        if self._hears:
            place = parse_place(self._settings.listen)
            heard = self._listening(place)
            self._sockets[heard.family] = heard
            loop.add_reader(heard.fileno(), self._receive, heard, gate)
        for peer in map(parse_place, self._settings.peers):
            family = socket.AF_INET6 if ":" in peer.ip else socket.AF_INET
            if family not in self._sockets:
                made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
                self._sockets[family] = made
            if peer.interface:
                self._send_through(self._sockets[family], peer)

    def _listening(self, place: Place) -> socket.socket:
        family = socket.AF_INET6 if ":" in place.ip else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((place.ip or "0.0.0.0", place.port))  # noqa: S104  (the group is asked for besides)
            if place.interface:
                index = socket.if_nametoindex(place.interface)
                joined = struct.pack("=4s4si", socket.inet_aton(self._settings.group), bytes(4), index)
                made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
                self._own_ips = frozenset((interface_ip(made, place.interface),))
        except OSError:
            made.close()
            raise
        return made

    @staticmethod
    def _send_through(sock: socket.socket, place: Place) -> None:
        index = socket.if_nametoindex(place.interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", bytes(4), bytes(4), index))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, place.ttl)

    # Telling

    def _tell_spamd(self, entry: sync.Entry) -> None:
        try:
            octets = sync.pack([entry], self._counter, self._keys[0], self._clock.now() // MICROSECONDS)
        except sync.TooLong as wrong:
            self.tally.too_long += 1
            self._complain("sync_too_long", text=str(wrong))
            return
        self._counter += 1
        for peer in map(parse_place, self._settings.peers):
            self._send(octets, (self._settings.group if peer.interface else peer.ip, peer.port))

    def _tell(self, kind: Kind, body: bytes, to: Iterable[tuple[str, int]]) -> None:
        self._sequence += 1
        now = self._clock.now()
        octets = peersync.seal(kind, body, self._keys[0], self._stream, self._sequence, now)
        for each in to:
            self._send(octets, each)

    def _send(self, octets: bytes, to: tuple[str, int]) -> None:
        sock = self._sockets.get(socket.AF_INET6 if ":" in to[0] else socket.AF_INET)
        if sock is None:
            return
        try:
            sock.sendto(octets, to)
            self.tally.sent += 1
        except OSError as error:  # no route, or a full buffer: own mode finds out by comparing
            self._complain("sync_not_sent", peer=to[0], error=str(error))

    def _peers(self) -> list[tuple[str, int]]:
        return [(place.ip, place.port) for place in map(parse_place, self._settings.peers)]

    async def _keep_telling(self, database: Database) -> None:
        """Tell of records that changed, once they were written."""
        while True:
            await asyncio.sleep(TELL_S)
            ripe, self._changed = list(self._changed)[:A_TURN], dict.fromkeys(list(self._changed)[A_TURN:])
            if not ripe:
                continue
            await asyncio.sleep(TELL_S)
            try:
                rows = [row for digest in ripe for row in await database.read(sql.ROW, {"digest": digest})]
            except NotCommitted as error:
                self._complain("sync_not_told", error=str(error))
                continue
            for body in peersync.batches(map(entry_of, rows)):
                self._tell(Kind.RECORDS, body, self._peers())
                await asyncio.sleep(0)

    async def _keep_comparing(self, database: Database) -> None:
        while True:
            began = self._clock.steady()
            try:
                self._ledger = await walk(database, self._clock.now())
                self._tell(Kind.SUMS, self._ledger.top().pack(), self._peers())
            except NotCommitted as error:
                self._complain("sync_not_compared", error=str(error))
            took = self._clock.steady() - began
            jitter = random.uniform(0.8, 1.2)  # noqa: S311  (so that servers do not compare in step)
            await asyncio.sleep(max(self._settings.interval * jitter, REST * took))

    # Hearing

    def _receive(self, sock: socket.socket, gate: Gate) -> None:
        for _ in range(HEARD_AT_ONCE):  # then the loop has others to see to
            try:
                octets, source = sock.recvfrom(65_535)
            except BlockingIOError:
                return
            except OSError as error:
                self._complain("sync_not_heard", error=str(error))
                return
            ip = str(source[0]).partition("%")[0].removeprefix("::ffff:")  # an IPv4 peer heard at [::]
            if ip in self._own_ips:
                continue
            if not self._is_peer(ip):
                self.tally.strangers += 1
                self._complain("sync_stranger", peer=ip)
                continue
            self._hear(octets, ip, gate)

    def _is_peer(self, ip: str) -> bool:
        address = ip_address(ip)
        if self._settings.allow:
            return any(address in ip_network(each, strict=False) for each in self._settings.allow)
        if parse_place(self._settings.listen).interface:
            return True
        return any(ip_address(each[0]) == address for each in self._peers() if each[0])

    def _hear(self, octets: bytes, ip: str, gate: Gate) -> None:
        try:
            if self._settings.mode is SyncMode.SPAMD:
                self._hear_spamd(octets, ip, gate)
            else:
                self._hear_own(octets, ip, gate)
        except (sync.NotUnderstood, peersync.NotUnderstood) as wrong:
            self.tally.refused += 1
            self._complain("sync_refused", peer=ip, why=str(wrong))

    def _hear_spamd(self, octets: bytes, ip: str, gate: Gate) -> None:
        told = sync.parse(octets[: sync.DATAGRAM_MAX], self._keys[0], accept_v1=self._settings.accept_v1)
        self.tally.heard += 1
        for entry in told.entries:
            self.tally.records += 1
            match entry:
                case sync.Grey():
                    gate.heard_grey(entry.ip, entry.helo, entry.sender, entry.recipient)
                case sync.White():
                    gate.heard_white(entry.ip, Instant(entry.expires * MICROSECONDS))
                case sync.Trapped():
                    gate.heard_trapped(entry.ip, Instant(entry.expires * MICROSECONDS))
        if told.flaw:
            raise sync.NotUnderstood(told.flaw)

    def _hear_own(self, octets: bytes, ip: str, gate: Gate) -> None:
        said = peersync.unseal(octets, self._keys)
        now = self._clock.now()
        if abs(now - said.sent) > AGE_MAX:
            self.tally.late += 1
            behind = (now - said.sent) / MICROSECONDS
            self._complain("sync_clocks_differ", peer=ip, seconds=round(behind, 1), text="Is it a replay, or NTP?")
            return
        if said.sent < self._started or not self._window(said.stream).fresh(said.sequence):
            self.tally.replayed += 1
            return
        self.tally.heard += 1
        if said.kind is Kind.RECORDS:
            records = [each for each in map(record_of, peersync.read_entries(said.body)) if each is not None]
            self.tally.records += len(records)
            gate.merge(records)
        else:
            self._answer(peersync.read_sums(said.body), ip)

    def _window(self, stream: bytes) -> Window:
        if stream not in self._streams and len(self._streams) >= STREAMS_MAX:
            del self._streams[next(iter(self._streams))]
        return self._streams.setdefault(stream, _Stream()).window

    def _answer(self, theirs: Sums, ip: str) -> None:
        """Answer the sums of a peer that differ from ours: with finer ones, or with the records themselves."""
        peer = next((each for each in self._peers() if ip_address(each[0]) == ip_address(ip)), None)
        if self._ledger is None or peer is None or self._answers.full():
            return
        ours = self._ledger.top() if theirs.prefix is None else self._ledger.below(theirs.prefix)
        other = [at for at, (one, two) in enumerate(zip(ours.sums, theirs.sums, strict=True)) if one != two]
        random.shuffle(other)
        if other:
            most = SUBTREES_MAX if theirs.prefix is None else len(other)
            self._answers.put_nowait(_Answer(theirs.prefix, other[:most], peer))

    async def _keep_answering(self, database: Database) -> None:
        """Send peers finer sums, or the records that they have otherwise, one datagram after the other."""
        while True:
            answer = await self._answers.get()
            with suppress(NotCommitted):
                async for kind, body in self._bodies(answer, database):
                    self._tell(kind, body, (answer.peer,))
                    await asyncio.sleep(PACE_S)

    async def _bodies(self, answer: _Answer, database: Database) -> AsyncIterator[tuple[Kind, bytes]]:
        if self._ledger is None:
            return
        for at in answer.other:
            if answer.prefix is None:
                yield Kind.SUMS, self._ledger.below(at).pack()
                continue
            async for entries in within(database, answer.prefix, at, self._clock.now()):
                for body in peersync.batches(entries):
                    yield Kind.RECORDS, body

    def _complain(self, event: str, **fields: object) -> None:
        """Log it, once a while."""
        steady = self._clock.steady()
        if steady - self._complained.get(event, -COMPLAIN_S) >= COMPLAIN_S:
            self._complained[event] = steady
            self._log.warning(event, **fields)


def read_keys(settings: SyncSettings) -> tuple[bytes, ...]:
    """Return the keys; raises KeyUnusable. Without a file spamd mode has the empty key."""
    keys = []
    for name in settings.key_files:
        try:
            content = Path(name).read_bytes()
        except OSError as wrong:
            raise KeyUnusable(f"failed to open sync key: {wrong}") from wrong
        if settings.mode is SyncMode.OWN and len(content) < KEY_MIN:
            raise KeyUnusable(f"{name}: a key has {KEY_MIN} octets at least (gatepost sync key {name} makes one)")
        keys.append(sync.key_of(content) if settings.mode is SyncMode.SPAMD else content)
    return tuple(keys) or (sync.key_of(None),)


def interface_ip(sock: socket.socket, name: str) -> str:
    """Return the IPv4 address of an interface; raises OSError."""
    asked = struct.pack("256s", name.encode()[:15])
    return socket.inet_ntoa(fcntl.ioctl(sock.fileno(), SIOCGIFADDR, asked)[20:24])
