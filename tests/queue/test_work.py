"""The worker: what is due is delivered once, results are recorded whole, crashes lose nothing."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.base.clock import DAY, Instant, seconds
from gatepost.base.units import Seconds
from gatepost.db.unit import Database, NoRoom, Params, Rows, Statement, Step, Unit
from gatepost.queue.sql import DUE_LANES, LEASE
from gatepost.queue.verbs import remove, take_over
from gatepost.queue.work import LANES_READ
from gatepost.relay.model import Consignment
from tests.queue.world import DOWN, LATER, T0, Scripted, World, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

DEAD: Params = {"owner": 99, "until": T0 + seconds(300), "now": T0, "lane": "far.example", "most": 10}
"""What a worker leases that then dies."""


@each_engine
def test_a_mail_is_delivered_and_leaves_nothing_behind(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            await w.submit("x@far.example", "y@far.example", "z@near.example")
            await w.work()
            assert sorted(w.relay.delivered) == ["x@far.example", "y@far.example", "z@near.example"]
            assert await w.counts() == (0, 0, 0)
            assert len(w.relay.contents) == 2  # one transaction a destination

    run(play())


@each_engine
def test_what_is_deferred_is_due_again_by_schedule(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": LATER})) as w:
            await w.submit("x@far.example", "y@far.example")
            await w.work()
            ((_, position, owner, due, attempts, error),) = await w.rows()
            assert (position, owner, due, attempts) == (0, 0, T0 + seconds(400), 1)
            assert error == "450 4.2.1 busy"
            w.clock.pass_by(399)
            await w.work(until=lambda: True)
            assert w.relay.tried.count("x@far.example") == 1
            w.clock.pass_by(1)
            w.relay.answers.clear()
            await w.work()
            assert w.relay.delivered == ["y@far.example", "x@far.example"]
            assert await w.counts() == (0, 0, 0)

    run(play())


@each_engine
def test_many_workers_share_a_queue_and_nothing_is_sent_twice(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:

            async def slow(_: Consignment) -> None:
                await asyncio.sleep(0.002)

            w.relay.hook = slow
            everyone = [f"u{n}@d{n % 7}.example" for n in range(60)]
            for at in range(0, 60, 3):
                await w.submit(*everyone[at : at + 3])
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(w.work())
            assert sorted(w.relay.delivered) == sorted(everyone)
            assert await w.counts() == (0, 0, 0)

    run(play())


@each_engine
def test_a_notice_wakes_a_waiting_worker(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            worker = w.worker()
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                await asyncio.sleep(0.05)
                await w.submit("x@far.example")
                while not w.relay.delivered:
                    await asyncio.sleep(0.005)
                await worker.stop()

    run(play())


@pytest.mark.row("REL-05")
@each_engine
def test_a_lease_that_ended_is_taken_over_and_told(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            number = await w.submit("x@far.example")
            await w.database.commit(Unit((Step(LEASE, DEAD),)))
            await w.work(until=lambda: True)
            assert w.relay.tried == []
            w.clock.pass_by(300)
            await w.work()
            assert w.relay.delivered == ["x@far.example"]
            assert "possible_duplicate" in w.log.words()
            assert (await w.counts(), number > 0) == ((0, 0, 0), True)

    run(play())


@each_engine
def test_at_a_cold_start_nobody_waits_for_leases_of_the_dead(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            await w.submit("x@far.example")
            await w.database.commit(Unit((Step(LEASE, DEAD),)))
            await take_over(w.database, w.clock.now())
            await w.work()
            assert w.relay.delivered == ["x@far.example"]

    run(play())


@each_engine
def test_who_lost_the_lease_records_nothing(open_db: OpenDatabase, tmp_path: Path) -> None:
    """The operator removes a recipient while it is being sent: only the other's result counts."""

    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            number = await w.submit("x@far.example", "y@far.example")

            async def meanwhile(_: Consignment) -> None:
                await remove(w.database, w.blobs, number, T0, positions=[0])

            w.relay.hook = meanwhile
            w.relay.answers = {"y@far.example": LATER}
            await w.work()
            assert [row[1] for row in await w.rows()] == [1]
            assert "lease_lost" in w.log.words()
            w.relay.hook = None
            w.relay.answers = {}
            w.clock.pass_by(400)
            await w.work()
            assert await w.counts() == (0, 0, 0)

    run(play())


class Full:
    """A database whose disk is full for the next `times` commits that record results."""

    def __init__(self, database: Database, times: int) -> None:
        self.database, self.times = database, times
        self.read, self.read_long, self.listen = database.read, database.read_long, database.listen

    async def commit(self, unit: Unit) -> Any:
        if self.times and any(step.statement.name == "queue.done" for step in unit.steps):
            self.times -= 1
            raise NoRoom("disk full")
        return await self.database.commit(unit)


@each_engine
def test_a_result_that_cannot_be_recorded_is_tried_again_and_not_sent_again(
    open_db: OpenDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost.queue.work.RETRY_COMMIT", (0.01,))

    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            await w.submit("x@far.example")
            await w.work(w.worker(database=Full(w.database, 3)))
            assert w.relay.delivered == ["x@far.example"]
            assert w.log.words().count("result_not_recorded") == 3
            assert await w.counts() == (0, 0, 0)

    run(play())


@each_engine
def test_a_stopped_worker_gives_back_what_it_has_not_begun(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for n in range(6):
                await w.submit(f"u{n}@far.example")

            async def hang(_: Consignment) -> None:
                await asyncio.sleep(3600)

            w.relay.hook = hang
            worker = w.worker()
            running = asyncio.create_task(worker.run())
            while len([row for row in await w.rows() if row[2]]) < 6:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            owners = [bool(row[2]) for row in await w.rows()]
            assert sorted(owners) == [False] * 4 + [True] * 2  # two had begun: the lane's window

    run(play())


@pytest.mark.row("OUT-11")
@each_engine
def test_a_slow_destination_is_in_nobodys_way(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for n in range(50):
                await w.submit(f"u{n}@tar.example")
            for n in range(10):
                await w.submit(f"u{n}@far{n}.example")

            end = asyncio.Event()

            async def drag(consignment: Consignment) -> None:
                if consignment.recipients[0].address.domain == "tar.example":
                    await end.wait()

            w.relay.hook = drag
            running = asyncio.create_task((worker := w.worker()).run())
            async with asyncio.timeout(5):
                while len(w.relay.delivered) < 10:
                    await asyncio.sleep(0.005)
            async with asyncio.timeout(5):  # two deliveries, and four recipients at hand for each of them
                while sum(1 for row in await w.rows() if row[2]) > 8:
                    await asyncio.sleep(0.005)
            await worker.stop()
            end.set()
            await running

    run(play())


@each_engine
def test_a_dead_destination_costs_one_connection_and_keeps_every_schedule(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            everyone = [f"u{n}@far.example" for n in range(30)]
            for each in everyone:
                await w.submit(each)
            w.relay.answers = dict.fromkeys(everyone, DOWN)
            await w.work()
            assert len(w.relay.tried) <= 2
            rows = await w.rows()
            assert [(row[3], row[4]) for row in rows] == [(T0 + seconds(400), 1)] * 30
            w.relay.answers = {}
            w.clock.pass_by(400)
            await w.work()
            assert len(w.relay.delivered) == 30

    run(play())


@pytest.mark.row("BM-02")
@each_engine
def test_a_destination_that_comes_back_gets_all_its_mail_at_once(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"a@far.example": DOWN})) as w:
            await w.submit("a@far.example")
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task((worker := w.worker()).run())
                while not w.relay.tried or any(row[2] for row in await w.rows()):
                    await asyncio.sleep(0.005)
                w.clock.pass_by(60)  # the rest is over, the mail is due much later
                w.relay.answers = {}
                await w.submit("b@far.example")
                while len(w.relay.delivered) < 2:
                    await asyncio.sleep(0.005)
                await worker.stop()
            assert w.relay.delivered == ["b@far.example", "a@far.example"]
            assert "destination_is_back" in w.log.words()

    run(play())


@each_engine
def test_a_worker_that_is_told_to_stop_ends_what_it_has_begun_and_no_more(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            begun: list[str] = []

            async def slow(consignment: Consignment) -> None:
                begun.append(str(consignment.recipients[0].address))
                await asyncio.sleep(0.05)

            w.relay.hook = slow
            for n in range(6):
                await w.submit(f"u{n}@far.example")
            worker = w.worker()
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                while not begun:
                    await asyncio.sleep(0.001)
                await worker.stop()
            assert sorted(w.relay.delivered) == sorted(begun)
            assert len(begun) <= 2
            assert [row[2] for row in await w.rows()] == [0] * (6 - len(begun))

    run(play())


@each_engine
def test_a_bug_in_recording_leaves_the_mail_to_the_next_lease(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            await w.submit("x@far.example")
            settler = w.settler()

            async def bug(*_: object, **__: object) -> Unit:
                raise RuntimeError("bug")

            settler.unit = bug  # type: ignore[method-assign]  # a fault
            await w.work(w.worker(settler=settler), until=lambda: "queue_broke" in w.log.words())
            ((_, _, owner, due, _, _),) = await w.rows()
            assert owner
            assert due == T0 + seconds(300)

    run(play())


@each_engine
def test_a_full_lane_hides_no_other(open_db: OpenDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.queue.work.LANES_READ", 5)

    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for n in range(30):
                await w.submit(f"u{n}@a.example")
            await w.submit("late@z.example")

            end = asyncio.Event()

            async def drag(consignment: Consignment) -> None:
                if consignment.recipients[0].address.domain == "a.example":
                    await end.wait()

            w.relay.hook = drag
            running = asyncio.create_task((worker := w.worker()).run())
            async with asyncio.timeout(5):
                while not w.relay.delivered:
                    await asyncio.sleep(0.005)
            await worker.stop()
            end.set()
            await running

    run(play())


@each_engine
def test_a_bug_in_the_relay_defers(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:

            async def bug(_: Consignment) -> None:
                raise RuntimeError("bug")

            await w.submit("x@far.example")
            w.relay.hook = bug
            await w.work()
            ((*_, attempts, error),) = await w.rows()
            assert (attempts, error) == (1, "451 4.3.0 internal error, see the log")
            assert "delivery_broke" in w.log.words()

    run(play())


@pytest.mark.row("REL-10")
@each_engine
def test_a_clock_that_was_ahead_does_not_hold_mail_for_years(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": LATER})) as w:
            w.clock.at = Instant(T0 + 3650 * DAY)
            await w.submit("x@far.example")
            await w.work()
            w.clock.at = T0
            w.relay.answers = {}
            await w.work(until=lambda: bool(w.relay.delivered))
            assert "queue_repaired" in w.log.words()

    run(play())


@pytest.mark.row("REL-10")
@each_engine
def test_a_clock_that_jumps_ahead_bounces_nobody(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": LATER})) as w:
            await w.submit("x@far.example")
            worker = w.worker()
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                for _ in range(8):
                    tried = len(w.relay.tried)
                    while len(w.relay.tried) == tried or any(row[2] for row in await w.rows()):
                        await asyncio.sleep(0.005)
                    w.clock.at = Instant(w.clock.at + 3650 * DAY)
                    worker._wake.set()
                await worker.stop()
            assert len(await w.rows()) == 1
            assert w.boxes.filed == []

    run(play())


@each_engine
def test_held_sessions_are_bounded_over_all_destinations(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            w.sending = replace(w.sending, sessions=3)
            at_once = most = 0

            async def count(_: Consignment) -> None:
                nonlocal at_once, most
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(0.02)
                at_once -= 1

            w.relay.hook = count
            for n in range(20):
                await w.submit(f"x@d{n}.example")
            await w.work()
            assert (most, len(w.relay.delivered)) == (3, 20)

    run(play())


@each_engine
def test_leases_are_renewed_while_a_delivery_takes_long(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            worker = w.worker()
            worker._lease = Seconds(0.06)

            async def slow(_: Consignment) -> None:
                for _step in range(10):
                    await asyncio.sleep(0.01)
                    w.clock.pass_by(0.01)

            w.relay.hook = slow
            await w.submit("x@far.example")
            other = w.worker()
            other._lease = Seconds(0.06)
            async with asyncio.TaskGroup() as group:
                group.create_task(w.work(worker))
                group.create_task(w.work(other))
            assert w.relay.delivered == ["x@far.example"]

    run(play())


class Slow:
    """A database that answers what is due when a little more time has passed."""

    def __init__(self, w: World) -> None:
        self.w, self.database = w, w.database
        self.read_long, self.listen, self.commit = (
            self.database.read_long,
            self.database.listen,
            self.database.commit,
        )

    async def read(self, statement: Statement, params: Params) -> Rows:
        rows = await self.database.read(statement, params)
        if statement is DUE_LANES:
            self.w.clock.pass_by(0.001)
        return rows


def test_what_falls_due_between_the_look_and_the_sleep_is_not_overslept(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"x@far.example": LATER})) as w:
            await w.submit("x@far.example")
            await w.work()
            w.relay.answers.clear()
            w.clock.at = Instant((await w.rows())[0][3] - 1)
            await w.work(w.worker(database=Slow(w)), until=lambda: bool(w.relay.delivered))
            assert w.relay.delivered == ["x@far.example"]

    run(play())


@each_engine
def test_behind_a_destination_that_is_full_the_others_are_found_without_reading_its_mail(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Watched:
        """A database that tells which lists were read."""

        def __init__(self, database: Database) -> None:
            self._database = database
            self.read, self.commit, self.listen = database.read, database.commit, database.listen

        async def read_long(self, statement: Statement, params: Params) -> Rows:
            asked.append(statement.name)
            return await self._database.read_long(statement, params)

    async def play() -> None:
        never = asyncio.Event()

        async def silent(consignment: Consignment) -> None:
            if consignment.recipients[0].address.domain == "dead.example":
                await never.wait()

        async with world(open_db, tmp_path, relay=Scripted(hook=silent)) as w:
            for number in range(LANES_READ + 20):
                await w.submit(f"x{number}@dead.example")
            await w.submit("a@one.example", "b@two.example")

            def done() -> bool:
                if len(w.relay.delivered) == 2:
                    never.set()
                return never.is_set()

            await w.work(w.worker(database=Watched(w.database)), until=done)
            assert set(w.relay.delivered[:2]) == {"a@one.example", "b@two.example"}

    run(play())
    assert set(asked) == {"queue.each_lane"}
