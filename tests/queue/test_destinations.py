"""The queue by destination and by sender: pauses, the operator's view, and choices of many recipients."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.base.clock import seconds
from gatepost.base.envelope import Notify, Recipient
from gatepost.base.reply import Refusal
from gatepost.db.unit import Statement, Value
from gatepost.diary.verbs import trace
from gatepost.queue import destinations, verbs
from gatepost.queue.destinations import Pause
from gatepost.queue.model import unpack_recipient
from gatepost.queue.redirect import Ambiguous, NotOne, redirect
from gatepost.queue.sql import EVERYTHING, LIST, LIST_LANE, PACKED, PARKED, SCHEMA
from gatepost.queue.verbs import Choice, NotThere, Untold
from gatepost.relay.model import Consignment
from tests.policy.world import People
from tests.queue.world import DOWN, LATER, T0, Scripted, World, address, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run


async def _left(w: World) -> list[str]:
    return [each.recipient for each in await verbs.list_queue(w.database)]


@each_engine
def test_a_pause_stops_one_destination_and_resuming_sends_what_fell_due(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            await destinations.pause(w.database, "far.example", T0, "their disk is full")
            await w.submit("x@far.example", "y@near.example")
            await w.work(until=lambda: w.relay.delivered == ["y@near.example"])
            while [row[3] for row in await w.rows()] != [PARKED]:
                await w.work(until=lambda: True)
            (waiting,) = await verbs.list_queue(w.database)
            assert (waiting.paused, waiting.held) == (True, False)
            (shown,) = await destinations.destinations(w.database, T0)
            assert (shown.name, shown.waiting, shown.paused, shown.next_due) == ("far.example", 1, True, None)
            assert await destinations.pauses(w.database) == (Pause("far.example", T0, "their disk is full"),)
            assert await destinations.resume(w.database, "far.example", T0)
            assert not await destinations.resume(w.database, "far.example", T0)
            await w.work()
            assert w.relay.delivered == ["y@near.example", "x@far.example"]

    run(play())


@each_engine
def test_a_worker_obeys_a_pause_and_its_end_at_once(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            worker = w.worker()
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                await w.submit("a@far.example")
                while not w.relay.delivered:
                    await asyncio.sleep(0.005)
                await destinations.pause(w.database, EVERYTHING, T0)
                await w.submit("b@far.example")
                while EVERYTHING not in worker._paused:
                    await asyncio.sleep(0.005)
                assert worker.offer(["far.example"], 100) is None
                assert w.relay.delivered == ["a@far.example"]
                await destinations.resume(w.database, EVERYTHING, T0)
                while len(w.relay.delivered) < 2:
                    await asyncio.sleep(0.005)
                await worker.stop()

    run(play())


def test_a_pause_outlives_the_worker_and_what_was_parked_stays_so_at_a_start(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            await destinations.pause(w.database, "far.example", T0)
            await w.submit("x@far.example")
            for _ in range(2):  # the second worker repairs what a clock has planned: not this
                await w.work(until=lambda: True)
            w.clock.pass_by(3600)
            await w.work(until=lambda: True)
            assert w.relay.tried == []
            assert [row[3] for row in await w.rows()] == [PARKED]
            assert "queue_repaired" not in [event for event, _ in w.log.events]

    run(play())


@each_engine
def test_the_view_names_rest_errors_and_heaps(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        answers = {"x@dead.example": DOWN, "y@slow.example": LATER}
        async with world(open_db, tmp_path, relay=Scripted(answers)) as w:
            for name in ("x@dead.example", "y@slow.example"):
                await w.submit(name)
                await w.work()
            held = await w.submit("z@slow.example")
            await verbs.hold(w.database, held)
            slow, dead = await destinations.destinations(w.database, w.clock.now())
            assert (slow.name, slow.waiting, slow.held, slow.last_error) == ("slow.example", 1, 1, "450 4.2.1 busy")
            assert (slow.rests_until, slow.next_due, slow.oldest) == (None, T0 + seconds(400), T0)
            assert (dead.name, dead.rests_until) == ("dead.example", T0 + seconds(15))
            assert dead.last_error == "451 4.4.1 cannot connect"
            assert await verbs.retry_destination(w.database, "dead.example", T0) == 1
            _, dead = await destinations.destinations(w.database, w.clock.now())
            assert dead.rests_until is None

    run(play())


@each_engine
def test_a_destination_and_a_sender_are_listed_counted_held_and_released(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for n in range(3):
                await w.submit(f"a{n}@far.example", f"b{n}@near.example")
                await w.submit(f"c{n}@far.example", sender="eve@here.example")
            far, eve = Choice("far.example"), Choice(sender="eve@here.example")
            first = await verbs.list_chosen(w.database, far, most=4)
            rest = await verbs.list_chosen(w.database, far, after=first[-1], most=4)
            assert [each.recipient[0] for each in (*first, *rest)] == ["a", "c"] * 3
            assert (await verbs.count_chosen(w.database, far)).recipients == 6
            assert await verbs.hold_chosen(w.database, eve) == 3
            assert await verbs.count_chosen(w.database, eve) == verbs.Counts(3, 3, 3, 0)
            both = Choice("far.example", "ann@here.example")
            assert {each.recipient for each in await verbs.list_chosen(w.database, both)} == {
                f"a{n}@far.example" for n in range(3)
            }
            assert await verbs.hold_chosen(w.database, far) == 3
            assert await verbs.release_chosen(w.database, far, T0) == 6

    run(play())


@each_engine
def test_what_is_chosen_is_removed_with_its_bodies_but_for_what_is_under_way(
    open_db: OpenDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "AT_ONCE", 2)

    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for n in range(3):
                await w.submit(f"a{n}@far.example", f"b{n}@near.example")
            started = asyncio.Event()

            async def hang(consignment: Consignment) -> None:
                if consignment.recipients[0].address.domain == "far.example":
                    started.set()
                await asyncio.sleep(3600)

            w.relay.hook = hang
            busy = asyncio.ensure_future(w.worker().run())
            await started.wait()
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            under_way = (await verbs.count_chosen(w.database, Choice("far.example"))).under_way
            assert under_way > 0
            removed = await verbs.remove_chosen(w.database, w.blobs, Choice("far.example"), T0)
            assert removed == 3 - under_way
            assert len([each for each in await _left(w) if each.endswith("near.example")]) == 3
            await verbs.take_over(w.database, T0)

    run(play())


@each_engine
def test_a_bounce_by_order_tells_the_sender_though_its_destination_rests(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        dead = {"x@far.example": DOWN, "y@far.example": DOWN}
        async with world(open_db, tmp_path, relay=Scripted(dead)) as w:
            number = await w.submit(*dead)
            await w.work(until=lambda: bool(w.relay.tried))
            await destinations.pause(w.database, EVERYTHING, T0)
            assert await verbs.give_back(w.database, number, T0) == 2
            await w.work(until=lambda: len(w.boxes.filed) == 1)
            assert await w.counts() == (0, 0, 1)  # the report's own body
            report = w.boxes.filed[0][1]
            assert report.count(b"Status: 5.3.0") == 2
            assert b"returned by the operator" in report
            events = [line.event for line in await trace(w.database, number)]
            assert "returned" in events
            assert "sender_told" in events

    run(play())


@each_engine
def test_a_mail_without_a_sender_cannot_be_bounced(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            number = await w.submit("x@far.example", sender=None)
            with pytest.raises(Untold):
                await verbs.give_back(w.database, number, T0)
            with pytest.raises(NotThere):
                await verbs.give_back(w.database, w.minter.mint(T0), T0)

    run(play())


@each_engine
def test_a_redirected_recipient_keeps_what_its_sender_wished_to_hear(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            wishes = Recipient(address("jo@far.example"), frozenset({Notify.SUCCESS}), "rfc822;jo@far.example")
            number = await w.submit(recipients=(wishes, Recipient(address("y@far.example"))))
            rules, people = w.rules, People()
            new = address("joe@near.example")
            with pytest.raises(Ambiguous):
                await redirect(w.database, rules, people, number, new, T0)
            done = await redirect(w.database, rules, people, number, new, T0, old="JO@far.example")
            assert (done.old, done.destination) == ("jo@far.example", "near.example")
            ((packed,),) = await w.database.read(PACKED, {"mail": number, "position": 0})
            assert isinstance(packed, bytes)
            assert unpack_recipient(packed)[0] == replace(wishes, address=new)
            await w.work()
            assert sorted(w.relay.delivered) == ["joe@near.example", "y@far.example"]
            (told,) = [line for line in await trace(w.database, number) if line.event == "redirected"]
            assert dict(told.fields)["to"] == "joe@near.example"

    run(play())


@each_engine
def test_what_cannot_be_redirected_stays(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            number = await w.submit("x@far.example")
            people = People()
            with pytest.raises(NotOne):
                await redirect(w.database, w.rules, people, number, address("ann@here.example"), T0)
            with pytest.raises(Refusal):
                await redirect(w.database, w.rules, people, number, address("nobody@here.example"), T0)
            with pytest.raises(NotThere):
                await redirect(w.database, w.rules, people, number, address("a@b.example"), T0, old="q@far.example")
            assert await _left(w) == ["x@far.example"]

    run(play())


@pytest.mark.parametrize(
    ("statement", "index"),
    [(LIST, "USING PRIMARY KEY"), (LIST_LANE, "USING INDEX queue_rcpt_lane")],
    ids=("all", "one destination"),
)
def test_a_page_of_the_queue_is_found_by_an_index_and_never_sorted(
    statement: Statement, index: str, tmp_path: Path
) -> None:
    explain = Statement("test.explain", f"EXPLAIN QUERY PLAN {statement.sql}")

    async def play() -> None:
        schema = replace(SCHEMA, statements=(*SCHEMA.statements, explain))
        async with open_sqlite((schema,)) as database:
            at: dict[str, Value] = {
                "mail": 1,
                "position": 0,
                "due": 1,
                "urgency": 0,
                "lane": "x",
                "anyone": 1,
                "sender": "",
                "most": 100,
            }
            used = {key: value for key, value in at.items() if f":{key}" in statement.sql}
            plan = " / ".join(str(row[3]) for row in await database.read(explain, used))
            assert index in plan
            assert "TEMP B-TREE" not in plan
            assert "SCAN" not in plan

    run(play())
