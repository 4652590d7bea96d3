"""What the tests of the gate share: a gate over a database, a wire in memory, a clock that stands still."""

import heapq
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

from gatepost.base.clock import Instant
from gatepost.base.ports import News
from gatepost.db.unit import Database
from gatepost.gate.gate import Gate
from gatepost.gate.prefix import Prefix
from gatepost.gate.settings import GateSettings, Mode
from gatepost.gate.sql import SCHEMA
from gatepost.gate.tarpit import Held
from gatepost.judge import spf
from tests.support.databases import OpenDatabase, open_sqlite
from tests.support.wire import START, MovedClock

SENDER = "198.51.100.7"
HELLO = b"EHLO mail.example.net\r\nMAIL FROM:<joe@example.net>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n"


class Journal:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def _tell(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    debug = info = warning = error = exception = _tell

    @property
    def texts(self) -> list[str]:
        """Return the lines that spamd would have written."""
        return [str(fields["text"]) for event, fields in self.lines if event == "gate" and "text" in fields]

    def failures(self) -> list[tuple[str, dict[str, object]]]:
        """Return what went wrong."""
        return [line for line in self.lines if "failed" in line[0] or "not_written" in line[0]]


class HeldWire:
    """A wire in memory; `Play` lets time pass for it."""

    def __init__(self, ip: str = SENDER, *, dialled: str = "192.0.2.25") -> None:
        self.peer_ip = ip
        self.local_ip = dialled
        self.said: list[tuple[float, bytes]] = []
        self.waiting = b""
        self.closed = self.reset = self.lost = False
        self.due: float | None = None
        self.tls: ssl.SSLContext | None = None
        self.session: Held | None = None
        self.moment = 0.0

    @property
    def text(self) -> str:
        """Return all that was said."""
        return b"".join(octets for _, octets in self.said).decode()

    def attach(self, session: Held) -> None:
        """Take the session, and give it what came before."""
        self.session = session
        if self.waiting:
            session.received(self.waiting)

    def write(self, octets: bytes) -> None:
        """Remember what was said, and when."""
        if not self.closed:
            self.said.append((self.moment, octets))

    def close(self) -> None:
        """End."""
        self.closed = True

    def abort(self) -> None:
        """End with a reset."""
        self.closed = self.reset = True

    def wake_at(self, steady: float) -> None:
        """Ask for a call of `due`."""
        self.due = steady

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Remember that hands are shaken now."""
        self.tls = context

    def send(self, octets: bytes) -> None:
        """Let the client speak."""
        assert self.session is not None
        if not self.closed:
            self.session.received(octets)


class Play:
    """Lets time pass for wires, deadline by deadline."""

    def __init__(self, clock: MovedClock, *wires: HeldWire) -> None:
        self.clock = clock
        self.wires = list(wires)

    def wait(self, length: float) -> None:
        """Let `length` seconds pass."""
        end = self.clock.steady() + length
        turn = count()
        while True:
            self.end_closed()
            due = [(wire.due, next(turn), wire) for wire in self.wires if wire.due is not None and not wire.lost]
            heapq.heapify(due)
            if not due or due[0][0] > end:
                break
            moment, _, wire = due[0]
            self.clock.move(max(0.0, moment - self.clock.steady()))
            wire.due = None
            wire.moment = self.clock.steady()
            assert wire.session is not None
            if not wire.closed:
                wire.session.due(self.clock.steady())
        self.clock.move(end - self.clock.steady())
        for wire in self.wires:
            wire.moment = self.clock.steady()

    def end_closed(self) -> None:
        """Tell the sessions of closed wires that they are over."""
        for wire in self.wires:
            if wire.closed and not wire.lost and wire.session is not None:
                wire.lost = True
                wire.session.lost()


class World:
    """A gate and what is around it."""

    def __init__(
        self, gate: Gate, database: Database, clock: MovedClock, journal: Journal, cut: list[Prefix]
    ) -> None:
        self.gate = gate
        self.database = database
        self.clock = clock
        self.journal = journal
        self.cut = cut

    @property
    def now(self) -> Instant:
        """Return the wall clock."""
        return self.clock.now()

    def connect(self, ip: str = SENDER, *, dialled: str = "192.0.2.25", early: bytes = b"") -> HeldWire:
        """Let a client connect to port 25 where it is held."""
        wire = HeldWire(ip, dialled=dialled)
        wire.waiting = early
        wire.moment = self.clock.steady()
        self.gate.hold(wire, self.gate.decide(ip, "mx"))
        return wire

    def offer(self, ip: str = SENDER, recipient: str = "ann@example.org", *, dialled: str = "192.0.2.25") -> str:
        """Let a client try to deliver, without stutter; return what it was told."""
        wire = self.connect(ip, dialled=dialled)
        wire.send(HELLO.replace(b"ann@example.org", recipient.encode()))
        assert wire.closed
        Play(self.clock, wire).end_closed()
        return wire.text

    async def learn(self) -> None:
        """Write what was learnt, and hear of what others wrote."""
        await self.gate.flush()
        await self.gate.start()  # not `refresh`: PostgreSQL's notices come when they come

    async def scan(self) -> int:
        """Write what was learnt, and scan."""
        await self.learn()
        promoted = await self.gate.scan(self.now)
        await self.gate.start()
        return promoted

    def verdict(self, ip: str = SENDER, kind: str = "mx") -> str:
        """Return what becomes of a connection."""
        return self.gate.decide(ip, kind).verdict.value


QUIET = GateSettings(mode=Mode.SPAMD, stutter=0, exempt=("127.0.0.1/32",))  # type: ignore[arg-type]  # Seconds


@asynccontextmanager
async def world(
    settings: GateSettings = QUIET,
    open_db: OpenDatabase = open_sqlite,
    *,
    start: bool = True,
    names: spf.Names | None = None,
    news: News | None = None,
) -> AsyncIterator[World]:
    """A started gate over a fresh database."""
    async with open_db((SCHEMA,)) as database:
        clock, journal, cut = MovedClock(), Journal(), list[Prefix]()
        gate = make(settings, database, clock, journal, cut.append, names=names, news=news)
        if start:
            await gate.start()
        yield World(gate, database, clock, journal, cut)
        assert journal.failures() == []


def make(
    settings: GateSettings,
    database: Database,
    clock: MovedClock,
    journal: Journal,
    cut: Callable[[Prefix], None],
    *,
    names: spf.Names | None = None,
    news: News | None = None,
) -> Gate:
    """Return a gate."""
    return Gate(
        settings,
        database,
        hostname="mx.example.org",
        clock=clock,
        log=journal,
        cut=cut,
        scans=True,
        names=names,
        news=news,
    )


__all__ = ["HELLO", "QUIET", "SENDER", "START", "HeldWire", "Journal", "Play", "World", "make", "world"]
