"""Readers over a real database: IMAP and POP3 sessions of bob and alice, spoken to in memory.

Both log in as `bob@here.example` with the password `secret`; their mailboxes are empty.
"""

import asyncio
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from gatepost.accounts import sql as accounts_sql
from gatepost.accounts import verbs
from gatepost.accounts.directory import Directory
from gatepost.accounts.model import NO_QUOTA, AccountId, Quota
from gatepost.accounts.password import Hasher
from gatepost.accounts.settings import AccountSettings
from gatepost.base.ids import Minter
from gatepost.base.units import Octets
from gatepost.blobs import sql as blobs_sql
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.spool import Spool, SpoolBudget
from gatepost.db.unit import Database, Unit
from gatepost.intake.auth import Throttle
from gatepost.intake.settings import IntakeSettings
from gatepost.store import sql as store_sql
from gatepost.store.mailbox import Mailboxes
from gatepost.store.model import MailboxId
from gatepost.store.verbs import create_default_mailboxes_steps
from gatepost.view import pop3
from gatepost.view.imap.serve import serve as serve_imap
from gatepost.view.news import MailboxNews
from gatepost.view.services import Services, Wire
from gatepost.view.settings import ViewSettings
from tests.support.databases import open_sqlite
from tests.support.wire import PATIENCE, START, MemoryWire, MovedClock

MEMORY, DISK = 8 << 20, 64 << 20
CHEAP = AccountSettings(password_rounds=1, password_memory=Octets(64 << 10))
SCHEMAS = (accounts_sql.SCHEMA, blobs_sql.SCHEMA, store_sql.SCHEMA)
SERVE: Final[dict[str, Callable[[Wire, Services], Coroutine[object, object, None]]]] = {
    "imap": serve_imap,
    "pop3": pop3.serve,
}

MAIL = (
    b"From: Ann <ann@sender.example>\r\nTo: bob@here.example\r\nSubject: peas\r\n"
    b"Date: Mon, 23 Nov 2026 10:00:00 +0100\r\nMessage-ID: <one@sender.example>\r\n"
    b"\r\nThe peas are in.\r\n"
)
_LITERAL = re.compile(rb"\{([0-9]+)\}\Z")


class Notebook:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def _note(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    debug = info = warning = error = exception = _note

    def events(self, *names: str) -> list[dict[str, object]]:
        """Return the fields of all lines of those events."""
        return [fields for event, fields in self.lines if event in names]


class Holder:
    """A certificate that nobody looks at: MemoryWire only pretends."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


@lru_cache(maxsize=1)
def hasher() -> Hasher:
    """Return one cheap hasher for all tests."""
    return Hasher(CHEAP)


@dataclass
class World:
    """What a test needs."""

    services: Services
    database: Database
    clock: MovedClock
    mailboxes: Mailboxes
    log: Notebook
    budget: SpoolBudget
    accounts: dict[str, AccountId] = field(default_factory=dict)

    def change(self, **settings: object) -> None:
        """Change settings of the readers."""
        changed = replace(self.services.settings, **settings)  # type: ignore[arg-type]  # named by the tests
        self.services = replace(self.services, settings=changed)

    async def box(self, name: str = "INBOX", user: str = "bob") -> MailboxId:
        """Return a mailbox's id."""
        return (await self.mailboxes.find(self.accounts[user], name)).id

    async def deliver(self, *mails: bytes, flags: int = 0, mailbox: str = "INBOX") -> list[int]:
        """Store mails for bob as a delivery does; return their UIDs."""
        box, now = await self.box(mailbox), self.clock.now()
        return [(await self.mailboxes.append(box, raw, flags, now, now)).uid for raw in mails or (MAIL,)]

    async def mails(self, mailbox: str = "INBOX") -> dict[int, bytes]:
        """Return bob's mails of a mailbox by UID."""
        box = await self.box(mailbox)
        return {uid: await self.mailboxes.body(box, uid) for uid, _, _ in await self.mailboxes.rows(box)}

    async def flags(self, mailbox: str = "INBOX") -> dict[int, int]:
        """Return the flag masks of bob's mails by UID."""
        return {uid: flags for uid, flags, _ in await self.mailboxes.rows(await self.box(mailbox))}

    @asynccontextmanager
    async def wire(self, protocol: str, *, ip: str, tls: bool) -> AsyncIterator[MemoryWire]:
        """Connect; at the end hang up and wait for the session's end."""
        wire = MemoryWire(self.clock, peer_ip=ip, tls=tls)
        async with asyncio.TaskGroup() as group:
            group.create_task(SERVE[protocol](wire, self.services))
            try:
                yield wire
            finally:
                wire.hang_up()

    @asynccontextmanager
    async def imap(
        self, user: str = "bob", *, select: str = "", ip: str = "192.0.2.9", tls: bool = True
    ) -> AsyncIterator["Imap"]:
        """Open an IMAP session, logged in unless `user` is empty."""
        async with self.wire("imap", ip=ip, tls=tls) as wire:
            talk = Imap(wire, self.clock)
            await talk.hear()
            if user:
                await talk.ok(f"LOGIN {user}@here.example secret")
            if select:
                await talk.ok(f"SELECT {select}")
            yield talk

    @asynccontextmanager
    async def pop3(self, user: str = "bob", *, ip: str = "192.0.2.9", tls: bool = True) -> AsyncIterator["Talk"]:
        """Open a POP3 session, logged in unless `user` is empty."""
        async with self.wire("pop3", ip=ip, tls=tls) as wire:
            talk = Talk(wire, self.clock)
            await talk.hear()
            if user:
                await talk.send(f"USER {user}@here.example\r\n".encode())
                assert (await talk.send(b"PASS secret\r\n")).startswith(b"+OK")
            yield talk


class Talk:
    """A client that speaks to a session."""

    def __init__(self, wire: MemoryWire, clock: MovedClock) -> None:
        self.wire = wire
        self._clock = clock

    async def hear(self) -> bytes:
        """Return what was said once the session waits again."""
        await self.wire.settle()
        return self.wire.look()

    async def send(self, octets: bytes) -> bytes:
        """Send octets; return what was said to them."""
        await self.wire.settle()
        self.wire.send(octets)
        return await self.hear()

    async def say(self, line: str) -> bytes:
        """Send a line; return what was said to it."""
        return await self.send(line.encode() + b"\r\n")

    async def drip(self, octets: bytes) -> bytes:
        """Send octet by octet; return all that was said."""
        return b"".join([await self.send(octets[at : at + 1]) for at in range(len(octets))])

    async def wait(self, passed: float) -> bytes:
        """Let time pass; return what was said to that."""
        await self.wire.settle()
        self._clock.move(passed)
        self.wire.tick()
        return await self.hear()

    async def until(self, end: bytes) -> bytes:
        """Return what is said without our asking, up to `end`."""
        said = b""
        async with asyncio.timeout(PATIENCE):
            while not said.endswith(end):
                await asyncio.sleep(0)
                said += self.wire.look()
        return said


class Imap(Talk):
    """A client that speaks IMAP."""

    async def do(self, command: str | bytes) -> list[bytes]:
        """Give a command; return the responses to it without the tag, literals included, the tagged one last."""
        octets = command if isinstance(command, bytes) else command.encode()
        found = responses(await self.send(b"a " + octets + b"\r\n"))
        assert found[-1].startswith(b"a "), found
        return [*found[:-1], found[-1].removeprefix(b"a ")]

    async def ok(self, command: str | bytes) -> list[bytes]:
        """Give a command that must succeed; return its untagged responses."""
        found = await self.do(command)
        assert found[-1].startswith(b"OK"), found
        return found[:-1]

    async def no(self, command: str | bytes) -> bytes:
        """Give a command that gets its tagged answer alone; return that."""
        (found,) = await self.do(command)
        return found

    async def append(self, raw: bytes, mailbox: str = "INBOX", options: str = "") -> bytes:
        """Append a message; return the tagged answer."""
        middle = f" {options}" if options else ""
        return (await self.do(f"APPEND {mailbox}{middle} {{{len(raw)}+}}\r\n".encode() + raw))[-1]


def responses(octets: bytes) -> list[bytes]:
    """Cut what a server said into responses without their CRLF."""
    found: list[bytes] = []
    begin = at = 0
    while at < len(octets):
        end = octets.index(b"\r\n", at)
        literal = _LITERAL.search(octets, at, end)
        if literal is not None:
            at = end + 2 + int(literal[1])
            continue
        found.append(octets[begin:end])
        begin = at = end + 2
    return found


@asynccontextmanager
async def world(**settings: object) -> AsyncIterator[World]:
    """Set up the readers; no session may end with an error of ours."""
    minter, clock, log = Minter(0), MovedClock(), Notebook()
    with TemporaryDirectory(prefix="gatepost-view-") as folder:
        budget = SpoolBudget(MEMORY, DISK)
        async with open_sqlite(SCHEMAS) as database:
            mailboxes = Mailboxes(database, Blobs(database, Path(folder) / "bodies"), minter)
            services = Services(
                settings=ViewSettings(**settings),  # type: ignore[arg-type]  # named by the tests
                hostname="mx.example",
                clock=clock,
                news=MailboxNews(database),
                mailboxes=mailboxes,
                spool=lambda: Spool(Path(folder) / "spool", budget),
                accounts=Directory(database, hasher(), clock, CHEAP),
                attempts=Throttle(IntakeSettings()),
                certificates=Holder(),
                log=log,
                pause=clock.pause,
                sessions=Counter(),
            )
            made = World(services, database, clock, mailboxes, log, budget)
            for user, quota in (("bob", NO_QUOTA), ("alice", NO_QUOTA), ("full", Quota(messages=1))):
                made.accounts[user] = await _person(database, minter, user, quota)
            yield made
            assert log.events("imap_bug", "pop3_bug") == []
            assert not services.sessions, "a session kept its place"
            assert (budget.memory, budget.disk) == (MEMORY, DISK), "a session kept its spool"


async def _person(database: Database, minter: Minter, user: str, quota: Quota) -> AccountId:
    if user == "bob":
        await verbs.add_domain(database, "here.example", START)
    account = await verbs.add_user(
        database, hasher(), minter, f"{user}@here.example", b"secret", START, quota=quota
    )
    steps = account.steps + create_default_mailboxes_steps(account.id, minter, START)
    await database.commit(Unit(steps, account.notices))
    return account.id


def scene(play: Callable[[World], Awaitable[None]], **settings: object) -> None:
    """Play a scene in a fresh world."""

    async def played() -> None:
        async with world(**settings) as here:
            await play(here)

    asyncio.run(played())
