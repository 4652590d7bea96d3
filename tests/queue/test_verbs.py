"""What an operator does with the queue."""

import asyncio
from pathlib import Path

import pytest

from gatepost.base.clock import seconds
from gatepost.queue import verbs
from gatepost.queue.sql import NEVER
from tests.queue.world import DOWN, LATER, T0, Scripted, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


@each_engine
def test_the_queue_is_listed_page_by_page(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for n in range(5):
                await w.submit(f"a{n}@far.example", f"b{n}@far.example")
            after, seen = (0, -1), []
            while page := await verbs.list_queue(w.database, after=after, most=3):
                seen += [each.recipient for each in page]
                after = (page[-1].mail, page[-1].position)
            assert seen == [f"{letter}{n}@far.example" for n in range(5) for letter in "ab"]
            assert await verbs.count(w.database) == verbs.Counts(recipients=10, mails=5, held=0, under_way=0)

    run(play())


@each_engine
def test_a_mail_is_shown_with_its_last_answer(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": LATER})) as w:
            number = await w.submit("x@far.example", sender="Ann@Here.example")
            await w.work()
            (shown,) = await verbs.show(w.database, number)
            assert (shown.sender, shown.destination, shown.attempts) == ("ann@here.example", "far.example", 1)
            assert (shown.last_error, shown.last_try, shown.due) == ("450 4.2.1 busy", T0, T0 + seconds(400))
            assert (shown.held, shown.under_way, shown.bounce) == (False, False, False)
            with pytest.raises(verbs.NotThere):
                await verbs.show(w.database, w.minter.mint(T0))

    run(play())


@each_engine
def test_retry_makes_it_due_now_and_ends_a_rest(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": DOWN})) as w:
            number = await w.submit("x@far.example")
            worker = w.worker()
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                while not w.relay.tried or any(row[2] for row in await w.rows()):
                    await asyncio.sleep(0.005)
                w.relay.answers = {}
                assert await verbs.retry(w.database, number, w.clock.now()) == 1
                while not w.relay.delivered:  # although the destination still rests
                    await asyncio.sleep(0.005)
                await worker.stop()
            assert await verbs.retry_all(w.database, w.clock.now()) == 0
            assert await verbs.retry_destination(w.database, "far.example", w.clock.now()) == 0

    run(play())


@each_engine
def test_what_is_held_is_not_tried_until_released(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            number = await w.submit("x@far.example", "y@near.example")
            assert await verbs.hold(w.database, number) == 2
            w.clock.pass_by(10 * 86_400)
            await w.work(until=lambda: True)
            assert w.relay.tried == []
            assert [row[3] for row in await w.rows()] == [NEVER, NEVER]
            assert await verbs.retry_all(w.database, w.clock.now()) == 0
            assert (await verbs.count(w.database)).held == 2
            assert await verbs.release(w.database, number, w.clock.now()) == 2
            await w.work()
            assert sorted(w.relay.delivered) == ["x@far.example", "y@near.example"]

    run(play())


@each_engine
def test_removal_takes_the_mail_and_its_body(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            number = await w.submit("x@far.example", "y@near.example", "z@near.example")
            assert await verbs.remove(w.database, w.blobs, number, T0, positions=[1]) == 1
            assert await w.counts() == (2, 1, 1)
            assert await verbs.remove(w.database, w.blobs, number, T0) == 2
            assert await w.counts() == (0, 0, 0)
            with pytest.raises(verbs.NotThere):
                await verbs.remove(w.database, w.blobs, number, T0)

    run(play())
