"""A whole server but for its sockets: real database, accounts, store, queue, policy and judge.

Accounts: bob, alice (password of both: `secret`, loginable as bob@here.example) and the full one `full` of
here.example; `team` is an alias of bob and out@far.example; `away` goes to out@far.example alone.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from gatepost.accounts import sql as accounts_sql
from gatepost.accounts import verbs
from gatepost.accounts.directory import Directory
from gatepost.accounts.model import NO_QUOTA, AccountId, Quota
from gatepost.accounts.password import Hasher
from gatepost.accounts.settings import AccountSettings
from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Answer, Status
from gatepost.allowance import sql as allowance_sql
from gatepost.base.address import Address, ReversePath
from gatepost.base.clock import Instant
from gatepost.base.envelope import Client
from gatepost.base.ids import Minter
from gatepost.base.units import Octets
from gatepost.base.verdict import Custody, Finding
from gatepost.blobs import sql as blobs_sql
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.spool import Spool, SpoolBudget
from gatepost.db.unit import Database, Rows, Statement, Unit
from gatepost.diary import sql as diary_sql
from gatepost.diary.refused.counts import Refusals
from gatepost.gate.friendly import PASSES, Say, Standing
from gatepost.intake import lmtp, mx, submission
from gatepost.intake.auth import Throttle
from gatepost.intake.ports import Certificates, Services, Wire
from gatepost.intake.settings import IntakeSettings
from gatepost.judge.judge import Judge
from gatepost.judge.settings import JudgeSettings
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from gatepost.queue import sql as queue_sql
from gatepost.store import sql as store_sql
from gatepost.store.mailbox import Mailboxes
from gatepost.store.verbs import create_default_mailboxes_steps
from tests.support.databases import open_sqlite
from tests.support.wire import START, MemoryWire, MovedClock

HOST = "mx.example"
CHEAP = AccountSettings(password_rounds=1, password_memory=Octets(64 << 10))
SCHEMAS = (
    accounts_sql.SCHEMA,
    allowance_sql.SCHEMA,
    blobs_sql.SCHEMA,
    diary_sql.SCHEMA,
    queue_sql.SCHEMA,
    store_sql.SCHEMA,
)
PLAIN_BOB = "AUTH PLAIN AGJvYkBoZXJlLmV4YW1wbGUAc2VjcmV0"

Serve = Callable[[Wire, Services], Coroutine[object, object, None]]
SERVE: dict[str, Serve] = {"mx": mx.serve, "submission": submission.serve, "lmtp": lmtp.serve}


class Zone:
    """The DNS of the tests: 192.0.2.9 is client.example; 192.0.2.66 claims the same but is not."""

    async def ptr(self, ip: str) -> Answer[str]:
        """Return the name of an address."""
        return _answer("client.example" if ip in ("192.0.2.9", "192.0.2.66") else "")

    async def addresses(self, name: str) -> Answer[str]:
        """Return the address of a name."""
        return _answer("192.0.2.9" if name == "client.example" else "")

    async def txt(self, name: str) -> Sequence[bytes]:
        """Publish nothing."""
        return ()

    hosts = exchanges = pointers = None  # the judge does not verify here


class Pen:
    """A seal that leaves its mark and remembers what it signed."""

    def __init__(self) -> None:
        self.signed: list[tuple[str, list[bytes], bytes]] = []

    async def seal(self, fields: Sequence[tuple[bytes, bytes]], body: bytes, domain: str, now: Instant) -> bytes:
        """Sign."""
        self.signed.append((domain, [name for name, _ in fields], body))
        return f"DKIM-Signature: v=1; d={domain}\r\n".encode()

    async def vouch(
        self, fields: Sequence[tuple[bytes, bytes]], body: bytes, domain: str, custody: Custody, now: Instant
    ) -> bytes:
        """Vouch for a mail that goes on."""
        return f"ARC-Seal: i={len(custody.below) + 1}; d={domain}\r\n".encode()


class Doorman:
    """A gate that says of recipients what it is told to, and remembers what it is told."""

    def __init__(self) -> None:
        self.says: dict[str, Standing] = {}
        self.excuses = True
        self.remembered: list[tuple[Standing, ...]] = []
        self.written: list[Address] = []

    async def recipient(
        self, client: Client, sender: ReversePath, recipient: Address, accounts: Sequence[int], now: Instant
    ) -> Standing:
        """Look it up."""
        return self.says.get(recipient.key, PASSES)

    def excused(self, answers: Sequence[Standing], findings: Sequence[Finding], client: Client) -> bool:
        """Excuse all or nobody."""
        return self.excuses or all(answer.say is not Say.CONTENT for answer in answers)

    def accepted(self, answers: Sequence[Standing], findings: Sequence[Finding]) -> None:
        """Remember."""
        self.remembered.append(tuple(answers))

    def wrote(self, recipients: Sequence[Address]) -> None:
        """Remember."""
        self.written += recipients


class Notebook:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def _note(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    debug = info = warning = error = exception = _note

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the fields of all lines of that event."""
        return [fields for event, fields in self.lines if event == name]


class Holder:
    """A certificate that nobody looks at: MemoryWire only pretends."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Brittle:
    """A database whose commits fail when the test says so."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.problem: Exception | None = None
        self.before: Callable[[], Awaitable[None]] | None = None
        self.read = database.read
        self.read_long = database.read_long
        self.listen = database.listen

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Commit, or fail."""
        if self.before is not None:
            await self.before()
        if self.problem is not None:
            raise self.problem
        return await self._database.commit(unit)


@lru_cache(maxsize=1)
def hasher() -> Hasher:
    """Return one cheap hasher for all tests."""
    return Hasher(CHEAP)


@dataclass
class World:
    """What a test needs."""

    services: Services
    database: Brittle
    clock: MovedClock
    mailboxes: Mailboxes
    budget: SpoolBudget
    accounts: dict[str, AccountId] = field(default_factory=dict)
    log: Notebook = field(default_factory=Notebook)
    pen: Pen = field(default_factory=Pen)
    gate: Doorman = field(default_factory=Doorman)
    refusals: Refusals = field(default_factory=Refusals)

    def change(self, **settings: object) -> None:
        """Change settings of the intake."""
        changed = replace(self.services.settings, **settings)  # type: ignore[arg-type]  # named by the tests
        self.services = replace(self.services, settings=changed, throttle=Throttle(changed))

    def real(self, certificates: Certificates) -> Services:
        """Return the services for real sockets: real clocks, real TLS, and no waiting."""
        return replace(self.services, clock=SystemClock(), certificates=certificates)

    async def mails(self, user: str, mailbox: str = "INBOX") -> list[bytes]:
        """Return all bodies of a mailbox."""
        found = (await self.mailboxes.find(self.accounts[user], mailbox)).id
        return [await self.mailboxes.body(found, uid) for uid, _, _ in await self.mailboxes.rows(found)]

    async def queued(self) -> list[str]:
        """Return the recipients that wait in the queue."""
        rows = await self.database.read(Statement("t.rcpts", "SELECT recipient FROM queue_rcpt"), {})
        return sorted(str(row[0]) for row in rows)

    async def rows(self, select: str) -> Rows:
        """Run a SELECT."""
        return await self.database.read(Statement(f"t.{select}", select), {})

    async def count(self, table: str) -> int:
        """Return how many rows a table has."""
        rows = await self.database.read(Statement(f"t.{table}", f"SELECT COUNT(*) FROM {table}"), {})
        return int(str(rows[0][0]))

    @asynccontextmanager
    async def client(
        self, port: str = "mx", *, ip: str = "192.0.2.9", tls: bool = False, hello: bool = True
    ) -> AsyncIterator["Talk"]:
        """Connect to a port; with `hello`, also say EHLO and forget the answers."""
        wire = MemoryWire(self.clock, peer_ip=ip, tls=tls)
        async with asyncio.TaskGroup() as group:
            group.create_task(SERVE[port](wire, self.services))
            talk = Talk(wire, self.clock)
            await talk.hear()
            if hello:
                await talk.say(("LHLO" if port == "lmtp" else "EHLO") + " client.example")
            try:
                yield talk
            finally:
                wire.hang_up()


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

    async def say(self, *lines: str | bytes) -> list[str]:
        """Send lines one by one; return the code and enhanced code of the last reply to each."""
        codes = []
        for line in lines:
            octets = line if isinstance(line, bytes) else line.encode()
            codes.append(code(await self.send(octets + b"\r\n")))
        return codes

    async def begin(self, sender: str = "<a@sender.example>", *recipients: str) -> list[str]:
        """Say MAIL, RCPTs (bob@here.example when none is given) and DATA."""
        rcpts = [f"RCPT TO:<{each}>" for each in recipients or ("bob@here.example",)]
        return await self.say(f"MAIL FROM:{sender}", *rcpts, "DATA")

    async def mail(self, content: bytes, sender: str = "<a@sender.example>", *recipients: str) -> str:
        """Send a mail whose content ends in CRLF; return the code of the last answer."""
        codes = await self.begin(sender, *recipients)
        if not codes[-1].startswith("354"):
            return codes[-1]
        return code(await self.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n"))

    async def wait(self, passed: float) -> bytes:
        """Let time pass; return what was said to that."""
        await self.wire.settle()
        self._clock.move(passed)
        self.wire.tick()
        return await self.hear()


def code(octets: bytes) -> str:
    """Return code and enhanced code of the last line."""
    words = octets.removesuffix(b"\r\n").split(b"\r\n")[-1].decode().split(" ")
    return " ".join(words[:2]) if len(words) > 1 and words[1][1:2] == "." else words[0]


@asynccontextmanager
async def world(**settings: object) -> AsyncIterator[World]:
    """Set up the server."""
    chosen = IntakeSettings(**settings)  # type: ignore[arg-type]  # named by the tests
    minter, clock = Minter(0), MovedClock()
    with TemporaryDirectory(prefix="gatepost-intake-") as folder:
        async with open_sqlite(SCHEMAS) as real:
            database = Brittle(real)
            bodies = Blobs(database, Path(folder) / "bodies")
            mailboxes = Mailboxes(database, bodies, minter)
            budget = SpoolBudget(64 << 20, 256 << 20)
            made = World.__new__(World)
            log, pen, gate, refusals = Notebook(), Pen(), Doorman(), Refusals()
            zone = Zone()
            directory = Directory(database, hasher(), clock, CHEAP)
            services = Services(
                settings=chosen,
                hostname=HOST,
                clock=clock,
                minter=minter,
                database=database,
                bodies=bodies,
                mailboxes=mailboxes,
                directory=directory,
                policy=Policy(PolicySettings(), load(PolicySettings()), own_names=(HOST,)),
                gate=gate,
                judge=Judge(JudgeSettings(verify=False), HOST, zone, None, log),  # type: ignore[arg-type]  # not asked
                seal=pen,
                names=zone,
                refusals=refusals,
                throttle=Throttle(chosen),
                spool=lambda: Spool(Path(folder) / "spool", budget),
                certificates=Holder(),
                log=log,
                pause=clock.pause,
            )
            made = World(
                services, database, clock, mailboxes, budget, log=log, pen=pen, gate=gate, refusals=refusals
            )
            await _people(made, real, minter)
            yield made


async def _people(made: World, database: Database, minter: Minter) -> None:
    await verbs.add_domain(database, "here.example", START)
    for user, quota in (("bob", NO_QUOTA), ("alice", NO_QUOTA), ("full", Quota(messages=1))):
        account = await verbs.add_user(
            database, hasher(), minter, f"{user}@here.example", b"secret", START, quota=quota, admin=user == "bob"
        )
        steps = account.steps + create_default_mailboxes_steps(account.id, minter, START)
        await database.commit(Unit(steps, account.notices))
        made.accounts[user] = account.id
    await verbs.add_alias(database, "team@here.example", ("bob@here.example", "out@far.example"), START)
    await verbs.add_alias(database, "away@here.example", ("out@far.example",), START)


def _answer(record: str) -> Answer[str]:
    return Answer((record,), False, Status.OK) if record else Answer((), False, Status.NXDOMAIN)
