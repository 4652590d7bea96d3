"""A whole queue for tests: database, bodies, policy, and a relay that answers as the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gatepost.allowance.sql import SCHEMA as ALLOWANCE
from gatepost.base.address import Address
from gatepost.base.clock import Instant, seconds
from gatepost.base.envelope import Envelope, Recipient
from gatepost.base.ids import MailId, Minter
from gatepost.base.reply import Reply
from gatepost.base.units import Seconds
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.sql import SCHEMA as BLOBS
from gatepost.db.unit import Database, Notice, Statement, Unit
from gatepost.diary import Story
from gatepost.diary.sql import SCHEMA as DIARY
from gatepost.incidents.sql import SCHEMA as INCIDENTS
from gatepost.policy.action import Route, ToMailbox, ToRelay
from gatepost.policy.policy import Policy
from gatepost.queue import submit_steps
from gatepost.queue.bounce import Filed, Reporter
from gatepost.queue.home import Homes
from gatepost.queue.letters import Letters
from gatepost.queue.settings import QueueSettings
from gatepost.queue.settle import Settler
from gatepost.queue.sql import SCHEMA as QUEUE
from gatepost.queue.submit import NOTICE
from gatepost.queue.work import Worker
from gatepost.relay.model import Consignment, Fate, Result
from gatepost.relay.settings import RelaySettings
from tests.policy.world import People, policy
from tests.relay.world import Journal
from tests.support.databases import OpenDatabase

T0 = Instant(1_790_000_000_000_000)
CONTENT = b"From: <ann@here.example>\r\nSubject: hello\r\n\r\nbody\r\n"
OK = Reply(250, "2.0.0", "taken")
NO = Reply(550, "5.1.1", "who?")
LATER = Reply(450, "4.2.1", "busy")
DOWN = Reply(451, "4.4.1", "cannot connect")

ROWS = Statement(
    "test.rows", "SELECT mail, position, owner, due, attempts, last_error FROM queue_rcpt ORDER BY 1, 2"
)
MAILS = Statement("test.mails", "SELECT id FROM queue_mail")
BODIES = Statement("test.bodies", "SELECT id FROM body")
SCHEMAS = (
    BLOBS,
    DIARY,
    replace(QUEUE, statements=(*QUEUE.statements, ROWS, MAILS, BODIES)),
    INCIDENTS,
    ALLOWANCE,
)


@dataclass
class Clock:
    """A clock that the test moves; `steady` moves along unless told otherwise."""

    at: Instant = T0
    steady_at: float = 0.0

    def now(self) -> Instant:
        return self.at

    def steady(self) -> float:
        return self.steady_at

    def pass_by(self, amount: float) -> None:
        """Let seconds go by on both clocks."""
        self.at = Instant(self.at + seconds(amount))
        self.steady_at += amount


@dataclass
class Scripted:
    """A relay that answers by recipient; without a script everything is delivered."""

    answers: dict[str, Reply] = field(default_factory=dict)
    delivered: list[str] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)
    hook: Callable[[Consignment], Any] | None = None
    dsn_passed: bool = True
    by_passed: bool = False

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        if self.hook is not None:
            await self.hook(consignment)
        content = await consignment.load()
        results = tuple(self._result(recipient) for recipient in consignment.recipients)
        if any(result.fate is Fate.DELIVERED for result in results):
            self.contents.append(content)
        return results

    def close(self) -> None:
        pass

    def _result(self, recipient: Recipient) -> Result:
        name = str(recipient.address)
        self.tried.append(name)
        reply = self.answers.get(name, OK)
        fate = {2: Fate.DELIVERED, 4: Fate.DEFERRED, 5: Fate.FAILED}[reply.code // 100]
        if fate is Fate.DELIVERED:
            self.delivered.append(name)
        down = reply.enhanced == "4.4.1"
        return Result(
            fate,
            reply,
            "mx.far.example",
            "192.0.2.25",
            host_down=down,
            dsn_passed=self.dsn_passed,
            by_passed=self.by_passed,
        )


@dataclass
class Boxes:
    """Mailboxes that only remember."""

    filed: list[tuple[ToMailbox, bytes]] = field(default_factory=list)

    async def file(self, delivery: ToMailbox, envelope: Envelope, content: bytes, now: Instant) -> Filed:
        self.filed.append((delivery, content))
        return Filed((), (Notice("mailbox", 7),))


class Unsealed:
    """Signs with a line that tests can see."""

    async def seal(self, content: bytes, domain: str, now: Instant) -> bytes:
        return b"X-Sealed: %b\r\n" % domain.encode()


@dataclass
class World:
    """Everything around a worker."""

    database: Database
    blobs: Blobs
    clock: Clock = field(default_factory=Clock)
    relay: Scripted = field(default_factory=Scripted)
    boxes: Boxes = field(default_factory=Boxes)
    log: Journal = field(default_factory=Journal)
    rules: Policy = field(default_factory=policy)
    people: People = field(default_factory=People)
    settings: QueueSettings = field(default_factory=QueueSettings)
    sending: RelaySettings = field(default_factory=RelaySettings)
    minter: Minter = field(default_factory=lambda: Minter(1))

    async def submit(
        self,
        *to: str,
        sender: str | None = "ann@here.example",
        route: Route | None = None,
        recipients: Sequence[Recipient] | None = None,
        content: bytes = CONTENT,
        **more: Any,
    ) -> MailId:
        """Put one mail into the queue, as intake does."""
        now = self.clock.now()
        number = self.minter.mint(now)
        found = tuple(recipients or (Recipient(address(each)) for each in to))
        origin = None if sender is None else address(sender)
        extra = {key: more.pop(key) for key in ("kind", "returnable") if key in more}
        envelope = Envelope(number, now, origin, found, **more)
        relays = tuple(ToRelay(each.address, route or Route()) for each in found)
        steps = await self.blobs.put(number, content, len(relays))
        await self.database.commit(
            Unit((*steps, Story(number).step(), *submit_steps(envelope, number, relays, now, **extra)), (NOTICE,))
        )
        return number

    def settler(self) -> Settler:
        homes = Homes(self.blobs, self.boxes, self.minter)
        return Settler(self.settings, self.blobs, self.reporter(), self.log, homes=homes)

    def letters(self) -> Letters:
        return Letters(self.database, self.reporter(), self.clock, self.log)

    def reporter(self) -> Reporter:
        return Reporter(
            self.settings,
            self.blobs,
            self.rules,
            self.people,
            self.boxes,
            Unsealed(),
            minter=self.minter,
            hostname="mx.here.example",
            postmaster="postmaster@here.example",
            log=self.log,
        )

    def worker(self, **other: Any) -> Worker:
        parts: dict[str, Any] = {"database": self.database, "relay": self.relay, "settler": self.settler()} | other
        return Worker(
            parts["database"],
            self.blobs,
            parts["relay"],
            parts["settler"],
            settings=self.settings,
            sending=self.sending,
            minter=self.minter,
            clock=self.clock,
            log=self.log,
        )

    async def work(self, worker: Worker | None = None, *, until: Callable[[], bool] | None = None) -> None:
        """Run a worker until nothing is due (or `until` holds), then stop it."""
        worker = worker or self.worker()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(worker.run())
            while not running.done():
                await asyncio.sleep(0.005)
                if until is not None and until():
                    break
                due = [row for row in await self.rows() if row[3] <= self.clock.now() or row[2]]
                if until is None and not due:
                    break
            await worker.stop()

    async def rows(self) -> list[Any]:
        """Return what waits: (mail, position, owner, due, attempts, last_error)."""
        return list(await self.database.read(ROWS, {}))

    async def counts(self) -> tuple[int, int, int]:
        """Return how many recipients, mails and bodies there are."""
        return (
            len(await self.rows()),
            len(await self.database.read(MAILS, {})),
            len(await self.database.read(BODIES, {})),
        )


@asynccontextmanager
async def world(open_db: OpenDatabase, tmp_path: Path, **parts: Any) -> AsyncIterator[World]:
    """Make a world in a fresh database."""
    async with open_db(SCHEMAS) as database:
        yield World(database, Blobs(database, tmp_path / "bodies"), **parts)


def address(text: str) -> Address:
    """Read local@domain."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


QUICK_LEASE = QueueSettings(lease=Seconds(10))
