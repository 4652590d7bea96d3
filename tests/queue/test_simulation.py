"""A queue over simulated days: next hops fail as a seed says, workers die; each recipient has one end all the same.

The worker, the settler and the database are the real ones; the next hop, the clock and what goes wrong come from
the seed, which a failure prints. `--deep` runs thousands.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gatepost.base.clock import DAY, HOUR, later
from gatepost.base.ids import id_text
from gatepost.base.reply import Reply
from gatepost.db.unit import Database, Params, Rows, Statement, Unhealthy, Unit
from gatepost.queue.settings import QueueSettings
from gatepost.queue.work import Worker
from gatepost.relay.model import Consignment, Fate, Result
from tests.queue.test_bounce import statuses
from tests.queue.world import T0, World, world
from tests.support.databases import open_sqlite
from tests.support.loop import run

SEEDS = 30
DEEP_SEEDS = 5_000
MAILS = 6
DOMAINS = ("a.example", "b.example", "c.example")
OK, NO, LATER, DOWN, LOST = (
    Reply(250, "2.0.0", "taken"),
    Reply(550, "5.1.1", "who?"),
    Reply(450, "4.2.1", "busy"),
    Reply(451, "4.4.1", "cannot connect"),
    Reply(451, "4.4.2", "connection lost"),
)


class Killed(Exception):
    """The worker's process died here."""


@dataclass
class Hop:
    """All next hops; what they do is drawn. `taken` counts what they took, by mail and recipient."""

    chance: random.Random
    kind: bool = False
    """From now on they take everything."""
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)
    doubtful: set[str] = field(default_factory=set)
    dies_at: int = -1
    calls: int = 0

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        """Answer for each recipient."""
        await consignment.load()
        mail = id_text(consignment.mail)
        self.calls += 1
        host = DOWN if not self.kind and self.chance.random() < 0.2 else None
        results = tuple(self._one(mail, str(each.address), host) for each in consignment.recipients)
        if self.calls == self.dies_at:
            self.doubtful.add(mail)  # what was taken was not written down
            raise Killed
        return results

    def _one(self, mail: str, to: str, host: Reply | None) -> Result:
        reply = OK if self.kind else host or self.chance.choices((OK, NO, LATER, LOST), (6, 1, 4, 1))[0]
        lost = reply is LOST and self.chance.random() < 0.5
        if reply is OK or lost:
            self.taken[mail, to] += 1
        if lost:
            self.doubtful.add(mail)
        fate = {2: Fate.DELIVERED, 4: Fate.DEFERRED, 5: Fate.FAILED}[reply.code // 100]
        return Result(fate, reply, "mx", "192.0.2.25", host_down=reply is DOWN, in_doubt=reply is LOST)

    def close(self) -> None:
        """Close nothing."""


class Mortal:
    """A database as a process sees it that may die: from then on nothing of it reaches the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.listen = database.listen
        self.dead = False

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Read."""
        self._check()
        return await self._database.read(statement, params)

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Read off the loop."""
        self._check()
        return await self._database.read_long(statement, params)

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Commit."""
        self._check()
        return await self._database.commit(unit)

    def _check(self) -> None:
        if self.dead:
            raise Unhealthy("this process is dead")


class Life:
    """One worker from its start to its end, or until it dies."""

    def __init__(self, w: World, hop: Hop) -> None:
        self.w, self.hop = w, hop
        self.database = Mortal(w.database)

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        """Deliver, or die."""
        try:
            return await self.hop.deliver(consignment)
        except Killed:
            self.database.dead = True
            await asyncio.Event().wait()
            raise

    def close(self) -> None:
        """Close nothing."""

    async def live(self) -> None:
        """Work until nothing is due, or until it dies."""
        worker: Worker = self.w.worker(database=self.database, relay=self)
        running = asyncio.ensure_future(worker.run())
        async with asyncio.timeout(20):
            while not self.database.dead and await self._due(worker):
                await asyncio.sleep(0)
        if self.database.dead:
            running.cancel()
        else:
            await worker.stop()
        await asyncio.gather(running, return_exceptions=True)

    async def _due(self, worker: Worker) -> bool:
        """Tell whether something is due, or in the hands of this worker; what a dead one holds becomes due."""
        now = self.w.clock.now()
        return any(row[3] <= now or row[2] == worker._owner for row in await self.w.rows())


async def simulate(seed: int, folder: Path) -> None:
    """Play one seed; raises AssertionError."""
    chance = random.Random(seed)
    hop = Hop(chance)
    async with world(open_sqlite, folder, settings=QueueSettings(warn_after=0)) as w:  # type: ignore[arg-type]  # no warnings
        wanted: set[tuple[str, str]] = set()
        for _ in range(MAILS):
            to = [f"{name}@{chance.choice(DOMAINS)}" for name in "xyz"[: chance.randint(1, 3)]]
            mail = await w.submit(*to)
            wanted |= {(id_text(mail), each) for each in to}
        for _ in range(chance.randint(2, 6)):
            hop.dies_at = hop.calls + chance.randint(1, 8) if chance.random() < 0.5 else -1
            await Life(w, hop).live()
            w.clock.pass_by(chance.choice((60, 400, 3_600, 20_000)))
        hop.kind, hop.dies_at = chance.random() < 0.7, -1
        while await w.rows():
            assert w.clock.now() < later(T0, 30 * DAY), f"seed {seed}: something waits for ever: {await w.rows()}"
            await Life(w, hop).live()
            w.clock.pass_by(HOUR // 1_000_000)
        judge(seed, w, hop, wanted)


def judge(seed: int, w: World, hop: Hop, wanted: set[tuple[str, str]]) -> None:
    """Hold what became of each recipient against what may."""
    bounced = Counter(
        (content.partition(b"the mail's id here is ")[2][:13].decode(), recipient)
        for _, content in w.boxes.filed
        for recipient, action, _ in statuses(content)
        if action == "failed"
    )
    for mail, to in wanted:
        told = f"seed {seed}: {mail} to {to}: taken {hop.taken[mail, to]} times, bounced {bounced[mail, to]} times"
        assert hop.taken[mail, to] or bounced[mail, to], told
        if mail not in hop.doubtful:
            assert hop.taken[mail, to] + bounced[mail, to] == 1, told


def test_every_recipient_has_one_end_whatever_the_next_hops_and_the_workers_do(tmp_path: Path, deep: bool) -> None:
    async def play() -> None:
        for seed in range(DEEP_SEEDS if deep else SEEDS):
            folder = tmp_path / str(seed)
            folder.mkdir()
            await simulate(seed, folder)

    run(play())


@pytest.mark.parametrize("lie", ["forgets", "repeats"])
def test_the_simulation_catches_a_queue_that_forgets_or_repeats(lie: str) -> None:
    hop = Hop(random.Random(1))
    hop.taken["m", "x@a.example"] = 2 if lie == "repeats" else 0

    class Empty:
        boxes = type("Boxes", (), {"filed": []})

    with pytest.raises(AssertionError, match=r"seed 1: m to x@a\.example"):
        judge(1, Empty(), hop, {("m", "x@a.example")})  # type: ignore[arg-type]  # only its boxes
