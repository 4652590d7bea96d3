"""From the intake straight to the worker: what was offered a place is sent from memory, and lost by no crash."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatepost.base.clock import Instant
from gatepost.base.envelope import Envelope, Recipient
from gatepost.base.ids import MailId
from gatepost.db.unit import Step, Unit
from gatepost.diary import Story
from gatepost.policy.action import Route, ToRelay
from gatepost.queue import submit_steps
from gatepost.queue.handover import RECIPIENTS_MAX, SIZE_MAX, Offer
from gatepost.queue.work import Worker
from gatepost.relay.model import Consignment
from tests.queue.world import CONTENT, DOWN, QUICK_LEASE, Scripted, World, address, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

TO = "x@far.example"


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Worker]:
    """Run a worker until the block ends."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        while worker.offer([TO], 1) is None:
            await asyncio.sleep(0)
        yield worker
        await worker.stop()


async def accept(w: World, offer: Offer | None, to: str = TO) -> tuple[MailId, tuple[Step, ...]]:
    """Commit a mail as the intake does."""
    now = w.clock.now()
    number = w.minter.mint(now)
    envelope = Envelope(number, now, address("ann@here.example"), (Recipient(address(to)),))
    queued = submit_steps(envelope, number, (ToRelay(address(to), Route()),), now, offer=offer)
    stored = await w.blobs.put(number, CONTENT, 1)
    await w.database.commit(Unit((*stored, Story(number).step(), *queued)))
    return number, queued


async def gone(w: World) -> None:
    """Wait until nothing waits."""
    while await w.rows():
        await asyncio.sleep(0.002)


@each_engine
def test_an_offered_mail_is_sent_without_being_read_and_leaves_nothing_behind(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            leased: list[tuple[int, Instant]] = []

            async def look(consignment: Consignment) -> None:
                ((_, _, owner, due, _, _),) = await w.rows()
                leased.append((owner, due))

            w.relay.hook = look
            async with running(w.worker()) as worker:
                offer = worker.offer(["far.example"], len(CONTENT))
                assert offer is not None
                _, queued = await accept(w, offer)
                await worker.take(offer, queued, b"from memory")
                await gone(w)
            assert w.relay.contents == [b"from memory"]
            assert leased == [(offer.owner, offer.until)]
            assert await w.counts() == (0, 0, 0)

    run(play())


@each_engine
def test_what_was_offered_and_never_taken_is_sent_when_the_lease_ends(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, settings=QUICK_LEASE) as w:
            async with running(w.worker()) as worker:
                await accept(w, worker.offer(["far.example"], len(CONTENT)))  # and the process dies here
            await w.work(until=lambda: True)
            assert w.relay.delivered == []
            w.clock.pass_by(10)
            await w.work()
            assert w.relay.delivered == [TO]
            assert w.relay.contents == [CONTENT]
            assert "possible_duplicate" in [event for event, _ in w.log.events]

    run(play())


@each_engine
def test_a_worker_that_stops_meanwhile_gives_the_mail_back(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            async with running(w.worker()) as worker:
                offer = worker.offer(["far.example"], len(CONTENT))
                assert offer is not None
            _, queued = await accept(w, offer)
            await worker.take(offer, queued, CONTENT)
            ((_, _, owner, due, attempts, _),) = await w.rows()
            assert (owner, due, attempts) == (0, w.clock.now(), 0)
            assert worker.offer(["far.example"], 1) is None

    run(play())


@each_engine
def test_places_are_offered_as_far_as_there_are_any_and_come_back(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w, running(w.worker()) as worker:
            offers = []
            while (offer := worker.offer(["near.example"], 1)) is not None:
                offers.append(offer)
            assert len(offers) == w.sending.sessions_first * 4  # what the lane may lease ahead
            worker.withdraw(offers[0])
            assert worker.offer(["near.example"], 1) is not None
            assert worker.offer(["near.example"], 1) is None

    run(play())


@each_engine
def test_a_destination_that_rests_is_offered_nothing(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({TO: DOWN})) as w:
            worker = w.worker()
            await w.submit(TO)
            async with running(worker):
                while not (await w.rows())[0][4]:
                    await asyncio.sleep(0.002)
                assert worker.offer(["far.example"], 1) is None
                assert worker.offer(["near.example"], 1) is not None

    run(play())


@pytest.mark.parametrize(("places", "size"), [(RECIPIENTS_MAX + 1, 1), (1, SIZE_MAX + 1)])
def test_newsletters_and_large_mails_wait_their_turn(tmp_path: Path, places: int, size: int) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w, running(w.worker()) as worker:
            assert worker.offer([f"{number}.example" for number in range(places)], size) is None

    run(play())
