"""What a sender wishes for its mail stays with it in the queue, and decides there."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gatepost.base.clock import DAY, HOUR, Instant, later, seconds
from gatepost.base.envelope import NO_WISHES, DeliverBy, Notify, Privacy, Recipient, Wishes
from gatepost.base.ids import MailId
from gatepost.db.unit import Params, Step, Unit
from gatepost.policy.action import Route, RouteKind
from gatepost.queue import destinations, verbs
from gatepost.queue.bounce import Filed
from gatepost.queue.envelope import envelopes
from gatepost.queue.model import unpack_mail
from gatepost.queue.sql import LEASE_ALL, PARKED
from gatepost.queue.verbs import Choice, list_chosen
from gatepost.relay.model import Consignment
from gatepost.relay.settings import RelaySettings
from tests.queue.test_bounce import read, statuses
from tests.queue.world import CONTENT, DOWN, LATER, NO, T0, Boxes, Scripted, World, address, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

REQUIRED = Wishes(Privacy.REQUIRED)


def watch(w: World) -> list[Consignment]:
    """Return the consignments that the relay is given from now on."""
    seen: list[Consignment] = []

    async def look(consignment: Consignment) -> None:
        seen.append(consignment)

    w.relay.hook = look
    return seen


@pytest.mark.parametrize(
    "wishes",
    [
        NO_WISHES,
        REQUIRED,
        Wishes(Privacy.WAIVED),
        Wishes(priority=-3),
        Wishes(by=DeliverBy(later(T0, HOUR), True, True), not_before=later(T0, 0)),
    ],
)
def test_wishes_are_kept_with_the_mail(tmp_path: Path, wishes: Wishes) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            seen = watch(w)
            name = await w.submit("bob@far.example", wishes=wishes)
            lines = dict((await envelopes(w.database, name, w.settings))[0])
            assert lines.get("privacy", "usual") == wishes.privacy.value
            assert ("deliver-by" in lines) is (wishes.by is not None)
            assert lines.get("priority", "0") == str(wishes.priority)
            await w.work()
            assert [each.wishes for each in seen] == [wishes]

    run(play())


def test_a_row_of_an_older_version_has_no_wishes() -> None:
    old = msgspec.msgpack.encode([["ann", "here.example"], False, False, "", "", True, 100, None])
    assert unpack_mail(MailId(1), 0, 0, 0, 1, old).wishes is NO_WISHES


def test_the_report_of_a_mail_that_requires_tls_requires_it_too(tmp_path: Path) -> None:
    """RFC 8689 §5; of the mail it has the header alone, as every report here."""

    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"no@far.example": NO})) as w:
            seen = watch(w)
            await w.submit("no@far.example", sender="ann@near.example", wishes=REQUIRED, ret="FULL")
            await w.submit("no@far.example", sender="bea@near.example", wishes=Wishes(Privacy.WAIVED))
            await w.work()
            reports = {str(each.recipients[0].address): each.wishes for each in seen if each.sender is None}
            assert reports == {"ann@near.example": REQUIRED, "bea@near.example": NO_WISHES}
            assert all(b"body\r\n" not in content for content in w.relay.contents)

    run(play())


# Priorities

ONE_BY_ONE = RelaySettings(sessions_first=1, sessions_most=1)


@each_engine
def test_the_most_urgent_mail_of_a_lane_goes_first(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, sending=ONE_BY_ONE) as w:
            for number, priority in enumerate((0, -9, 0, 4, 9, -4, 0, 1, 4)):
                await w.submit(f"n{number}@far.example", wishes=Wishes(priority=priority))
                w.clock.pass_by(1)
            page = await list_chosen(w.database, Choice("far.example"), most=2)
            page += await list_chosen(w.database, Choice("far.example"), most=100, after=page[-1])
            order = ["n4", "n3", "n8", "n7", "n0", "n2", "n6", "n5", "n1"]
            assert [each.recipient.partition("@")[0] for each in page] == order
            assert [each.priority for each in page] == [9, 4, 4, 1, 0, 0, 0, -4, -9]
            await w.work()
            assert len(w.relay.delivered) == len(order)
            if open_db is open_sqlite:  # elsewhere what was leased together is read in any order
                assert [each.partition("@")[0] for each in w.relay.delivered] == order

    run(play())


@each_engine
@pytest.mark.parametrize("most", [1, 3, 6])
def test_a_lease_takes_the_most_urgent_and_of_equal_ones_what_has_waited_longest(
    open_db: OpenDatabase, tmp_path: Path, most: int
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            for priority in (-9, 0, 9, 0, 4, 0, -1):
                await w.submit(f"p{priority}@far.example", wishes=Wishes(priority=priority))
                w.clock.pass_by(1)
            now = w.clock.now()
            facts: Params = {"lane": "far.example", "now": now, "until": now + 1, "owner": 7, "most": most}
            (rows,) = await w.database.commit(Unit((Step(LEASE_ALL, facts),)))
            assert sorted(int(str(row[-1])) for row in rows) == [-9, -4, 0, 0, 0, 1, 9][:most]

    run(play())


@each_engine
def test_what_is_not_due_keeps_nothing_back_and_a_pause_is_for_all(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"a@far.example": LATER})) as w:
            await w.submit("a@far.example", wishes=Wishes(priority=9))
            await w.submit("b@far.example", wishes=Wishes(priority=-9))
            await w.work()
            assert w.relay.delivered == ["b@far.example"]
            await destinations.pause(w.database, "far.example", w.clock.now())
            w.clock.pass_by(3600)
            while [row[3] for row in await w.rows()] != [PARKED]:
                await w.work(until=lambda: True)
            await destinations.resume(w.database, "far.example", w.clock.now())
            del w.relay.answers["a@far.example"]
            await w.work()
            assert w.relay.delivered == ["b@far.example", "a@far.example"]

    run(play())


def test_a_report_is_as_urgent_as_its_mail(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"no@far.example": NO})) as w:
            seen = watch(w)
            await w.submit("no@far.example", sender="ann@near.example", wishes=Wishes(priority=4))
            await w.work()
            assert [each.wishes.priority for each in seen if each.sender is None] == [4]

    run(play())


# By when

IN_TIME = Instant(T0 + HOUR // 2)


def by(*, returns: bool, trace: bool = False) -> Wishes:
    return Wishes(by=DeliverBy(IN_TIME, returns, trace))


@each_engine
def test_a_mail_that_is_to_return_does_so_at_its_time_untried(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"a@far.example": LATER})) as w:
            await w.submit("a@far.example", wishes=by(returns=True))
            await w.work()
            while (due := (await w.rows())[0][3]) < IN_TIME:
                w.clock.pass_by((due - w.clock.now()) / 1_000_000)
                await w.work()
            assert due == IN_TIME
            tried = len(w.relay.tried)
            w.clock.pass_by((due - w.clock.now()) / 1_000_000)
            await w.work()
            assert len(w.relay.tried) == tried == 3
            ((_, content),) = w.boxes.filed
            assert statuses(content) == [("a@far.example", "failed", "5.4.7")]
            assert b"Deliver-By-Date: " in content
            assert (await w.counts())[:2] == (0, 0)

    run(play())


def test_a_mail_that_goes_on_has_its_sender_told_once_and_not_before(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"a@far.example": DOWN})) as w:
            await w.submit("a@far.example", wishes=by(returns=False))
            await w.work()
            w.clock.pass_by(1799)
            await w.work()
            assert w.boxes.filed == []
            w.clock.pass_by(3600)
            await w.work()
            w.clock.pass_by(4 * 3600)
            await w.work()
            ((_, content),) = w.boxes.filed
            assert statuses(content) == [("a@far.example", "delayed", "4.4.1")]
            w.relay.answers.clear()
            w.clock.pass_by(3 * 3600)
            await w.work()
            assert w.relay.delivered == ["a@far.example"]

    run(play())


def test_no_time_is_trusted_after_the_clock_has_jumped(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"a@far.example": LATER})) as w:
            await w.submit("a@far.example", wishes=by(returns=True))
            worker = w.worker()
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                for _ in range(3):
                    tried = len(w.relay.tried)
                    while len(w.relay.tried) == tried or any(row[2] for row in await w.rows()):
                        await asyncio.sleep(0.002)
                    w.clock.at = later(w.clock.at, 10 * HOUR)
                    worker._wake.set()
                await worker.stop()
            assert len(await w.rows()) == 1
            assert w.boxes.filed == []

    run(play())


@pytest.mark.parametrize(
    ("wishes", "notify", "passed", "told"),
    [
        (by(returns=True), None, False, True),
        (by(returns=False), None, False, True),
        (by(returns=True), frozenset((Notify.FAILURE,)), False, True),
        (by(returns=True), frozenset((Notify.DELAY,)), False, False),
        (by(returns=False), frozenset((Notify.DELAY,)), False, True),
        (by(returns=True), frozenset((Notify.NEVER,)), False, False),
        (by(returns=True), None, True, False),
        (by(returns=True, trace=True), None, True, True),
        (by(returns=True, trace=True), frozenset((Notify.NEVER,)), True, False),
        (NO_WISHES, None, False, False),
    ],
)
def test_a_sender_hears_of_a_server_that_does_not_know_its_time_and_of_each_when_it_asked(
    tmp_path: Path, wishes: Wishes, notify: frozenset[Notify] | None, passed: bool, told: bool
) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted(by_passed=passed)) as w:
            await w.submit(recipients=[Recipient(address("a@far.example"), notify)], wishes=wishes)
            await w.work()
            assert [statuses(content) for _, content in w.boxes.filed] == [
                [("a@far.example", "relayed", "2.0.0")]
            ] * told
            if told:
                people = str(read(w.boxes.filed[0][1]).get_payload(0))
                assert "You wanted it to be delivered by" in people

    run(play())


# Not before

RELEASE = later(T0, 20 * DAY)
HELD_BACK = Wishes(not_before=RELEASE)
HOME = Route(RouteKind.MAILBOX, "INBOX", auth="7")


@each_engine
def test_mail_waits_for_its_time_through_restarts_and_what_wakes_all_others(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            name = await w.submit("a@far.example", wishes=HELD_BACK)
            await w.submit("b@far.example")
            await w.work()
            await verbs.take_over(w.database, w.clock.now())
            assert await verbs.retry_all(w.database, w.clock.now()) == 0
            assert await verbs.retry_destination(w.database, "far.example", w.clock.now()) == 0
            await w.work()
            assert (w.relay.delivered, "queue_repaired" in w.log.words()) == (["b@far.example"], False)
            (waiting,) = await verbs.show(w.database, name)
            assert (waiting.due, waiting.not_before, waiting.attempts) == (RELEASE, RELEASE, 0)
            w.clock.pass_by(20 * 86_400)
            await w.work()
            assert w.relay.delivered == ["b@far.example", "a@far.example"]
            assert await w.counts() == (0, 0, 0)

    run(play())


@pytest.mark.parametrize("verb", [verbs.retry, verbs.release])
def test_the_operator_releases_it_at_once(tmp_path: Path, verb: Callable[..., Awaitable[int]]) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"a@far.example": LATER})) as w:
            name = await w.submit("a@far.example", wishes=HELD_BACK)
            assert await verb(w.database, name, w.clock.now()) == 1
            await w.work()
            assert w.relay.tried == ["a@far.example"]
            (waiting,) = await verbs.show(w.database, name)
            assert waiting.due < later(T0, HOUR)
            assert await verbs.retry_all(w.database, w.clock.now()) == 1

    run(play())


def test_what_is_held_goes_back_to_its_time_when_a_whole_destination_is_released(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path) as w:
            choice = Choice("far.example")
            await w.submit("a@far.example", wishes=HELD_BACK)
            await w.submit("b@far.example", wishes=HELD_BACK)
            assert await verbs.hold_chosen(w.database, choice) == 2
            assert await verbs.release_chosen(w.database, choice, w.clock.now()) == 2
            assert await verbs.release_chosen(w.database, choice, w.clock.now()) == 0
            assert {row[3] for row in await w.rows()} == {RELEASE}

    run(play())


def test_its_lifetime_begins_with_its_release(tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({"a@far.example": LATER})) as w:
            await w.submit("a@far.example", wishes=HELD_BACK)
            w.clock.pass_by(20 * 86_400)
            await w.work()
            assert [row[3] for row in await w.rows()] == [later(RELEASE, seconds(400))]
            for _ in range(8):
                w.clock.pass_by(86_000)
                await w.work()
            assert w.boxes.filed  # told, and given up
            assert (await w.counts())[0] == 0

    run(play())


@each_engine
def test_mail_for_a_mailbox_here_is_filed_at_its_time_in_one_unit(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path) as w:
            success = Recipient(address("bob@here.example"), frozenset((Notify.SUCCESS,)))
            await w.submit(recipients=[success], route=HOME, wishes=HELD_BACK)
            await w.work()
            assert w.boxes.filed == []
            w.clock.pass_by(20 * 86_400)
            await w.work()
            (home, mail), (_, report) = w.boxes.filed
            assert (home.account, home.mailbox_name, str(home.recipient)) == (7, "INBOX", "bob@here.example")
            assert mail == b"Return-Path: <ann@here.example>\r\n" + CONTENT
            assert statuses(report) == [("bob@here.example", "delivered", "2.1.5")]
            assert w.relay.tried == []
            assert (await w.counts())[:2] == (0, 0)

    run(play())


def test_a_mailbox_that_cannot_be_written_leaves_the_mail_waiting(tmp_path: Path) -> None:
    class Away(Boxes):
        async def file(self, *_: object) -> Filed:
            raise LookupError("no such account")

    async def play() -> None:
        async with world(open_sqlite, tmp_path, boxes=Away()) as w:
            await w.submit("bob@here.example", route=HOME)
            await w.work()
            assert [row[5] for row in await w.rows()] == ["451 4.2.0 the mailbox cannot be written, see the log"]
            assert "mailbox_not_written" in w.log.words()
            w.boxes = Boxes()
            w.clock.pass_by(10)
            await w.work()
            assert len(w.boxes.filed) == 1

    run(play())


# How long


@each_engine
def test_mail_is_tried_as_long_as_its_rule_says(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"a@far.example": LATER, "b@far.example": LATER})) as w:
            name = await w.submit("a@far.example", route=Route(lifetime=3 * 3600))
            await w.submit("b@far.example")
            lines = dict((await envelopes(w.database, name, w.settings))[0])
            assert int(lines["expire"]) - int(lines["ctime"]) == 3 * 3600
            for _ in range(13):
                await w.work()
                w.clock.pass_by(900)
            ((_, content),) = w.boxes.filed
            assert statuses(content) == [("a@far.example", "failed", "5.4.7")]
            assert len(await w.rows()) == 1

    run(play())
