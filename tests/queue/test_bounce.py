"""What senders are told, and what they are never told."""

from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import cast

import pytest

from gatepost.base.clock import HOUR, seconds
from gatepost.base.envelope import Notify, Recipient
from gatepost.diary.verbs import trace
from gatepost.policy.action import Route, RouteKind
from gatepost.queue.model import Kind
from gatepost.queue.settings import Bounces, QueueSettings
from tests.policy.world import People
from tests.queue.world import DOWN, LATER, NO, T0, Scripted, World, address, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run


def read(content: bytes) -> EmailMessage:
    """Parse a report with another parser than ours."""
    assert content.count(b"\r") == content.count(b"\n") == content.count(b"\r\n")
    message = message_from_bytes(content, policy=policy.default)
    assert not message.defects
    assert message.get_content_type() == "multipart/report"
    return message


def statuses(content: bytes) -> list[tuple[str, str, str]]:
    """Return (recipient, action, status) of each block."""
    part = cast(EmailMessage, read(content).get_payload(1))
    blocks = cast(list[EmailMessage], part.get_payload())
    return [
        (str(each["Final-Recipient"]).partition("; ")[2], str(each["Action"]), str(each["Status"]))
        for each in blocks[1:]
    ]


@pytest.mark.row("OUT-09")
@each_engine
def test_one_report_lists_all_failures_of_a_delivery(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        answers = {"no@far.example": NO, "never@far.example": NO, "later@far.example": LATER}
        async with world(open_db, tmp_path, relay=Scripted(answers)) as w:
            await w.submit("no@far.example", "yes@far.example", "never@far.example", "later@far.example")
            await w.work()
            ((delivery, content),) = w.boxes.filed
            assert (delivery.account, delivery.mailbox_name) == (0, "INBOX")
            assert content.startswith(b"X-Sealed: mx.here.example\r\nFrom: ")
            assert statuses(content) == [
                ("no@far.example", "failed", "5.1.1"),
                ("never@far.example", "failed", "5.1.1"),
            ]
            assert b"550 5.1.1 who?" in content
            assert b"Subject: hello" in content
            assert b"body\r\n" not in content
            rows, mails, bodies = await w.counts()
            assert (rows, mails) == (1, 1)
            assert bodies == 2  # the mail that waits, and the report in the mailbox

    run(play())


@each_engine
def test_a_report_to_a_sender_elsewhere_is_queued_and_sent_from_nobody(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"no@far.example": NO})) as w:
            await w.submit("no@far.example", sender="someone@near.example")
            senders: list[object] = []

            async def look(consignment: object) -> None:
                senders.append(getattr(consignment, "sender", "?"))

            w.relay.hook = look
            await w.work()
            assert w.relay.delivered == ["someone@near.example"]
            assert senders == [address("someone@near.example"), None]
            assert statuses(w.relay.contents[0]) == [("no@far.example", "failed", "5.1.1")]
            assert await w.counts() == (0, 0, 0)

    run(play())


@pytest.mark.row("OUT-03")
@each_engine
def test_nobody_is_told_of_a_bounce_that_bounces(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        answers = {"no@far.example": NO, "someone@near.example": NO}
        async with world(open_db, tmp_path, relay=Scripted(answers)) as w:
            await w.submit("no@far.example", sender=None)
            await w.submit("no@far.example", sender="someone@near.example")
            await w.submit("no@far.example", kind=Kind.BOUNCE)
            await w.work()
            assert w.boxes.filed == []
            assert w.relay.delivered == []
            assert w.log.words().count("double_bounce") == 3
            assert await w.counts() == (0, 0, 0)

    run(play())


@each_engine
def test_the_postmaster_hears_of_what_could_be_told_to_nobody_and_not_in_circles(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    master = "postmaster@here.example"
    people = People(aliases={master: ("joe@here.example",)})

    async def play(settings: QueueSettings) -> list[str]:
        async with world(
            open_db, tmp_path, relay=Scripted({"no@far.example": NO}), people=people, settings=settings
        ) as w:
            await w.submit("no@far.example", kind=Kind.BOUNCE, sender=None)  # a report of ours that failed
            await w.submit("no@far.example", sender="gone@here.example")  # nobody's address here
            await w.submit("no@far.example", sender=None)  # somebody else's report: never answered
            await w.work()
            assert (await w.counts())[:2] == (0, 0)
            return [str(read(content)["To"]) for _, content in w.boxes.filed]

    assert run(play(QueueSettings())) == [master] * 2
    assert run(play(QueueSettings(double_bounces=False))) == []

    async def circle() -> None:
        away = People(aliases={master: ("no@far.example",)})
        async with world(open_db, tmp_path, relay=Scripted({"no@far.example": NO}), people=away) as w:
            await w.submit("no@far.example", kind=Kind.BOUNCE, sender=None)
            await w.work()
            assert w.boxes.filed == []
            assert (await w.counts())[0] == 0

    run(circle())


@pytest.mark.row("OUT-04", "MT-33")
@each_engine
def test_who_may_be_forged_or_is_far_is_not_told_where_the_settings_say_so(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        local = QueueSettings(bounces=Bounces.LOCAL)
        async with world(open_db, tmp_path, relay=Scripted({"no@far.example": NO}), settings=local) as w:
            await w.submit("no@far.example", sender="someone@near.example")
            await w.submit("no@far.example", sender="ann@here.example", returnable=False)
            await w.submit("no@far.example", sender="gone@here.example")
            await w.work()
            assert (w.boxes.filed, w.relay.delivered) == ([], [])
            assert {"sender_unproven_not_told", "no_return_path"} <= set(w.log.words())
            await w.submit("no@far.example", sender="ann@here.example")
            await w.work()
            assert len(w.boxes.filed) == 1
            assert (await w.counts())[:2] == (0, 0)

    run(play())


@each_engine
def test_a_mail_that_is_late_is_told_once_and_given_up_after_four_days(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": LATER})) as w:
            number = await w.submit("x@far.example")
            attempts = 0
            while await w.rows():
                await w.work()
                attempts += 1
                told = [statuses(content)[0][1] for _, content in w.boxes.filed]
                age = (w.clock.at - T0) / HOUR
                assert told[:1] == (["delayed"] if age >= 4 else [])
                for row in await w.rows():
                    w.clock.pass_by((row[3] - w.clock.at) / seconds(1))
            assert [statuses(content) for _, content in w.boxes.filed] == [
                [("x@far.example", "delayed", "4.2.1")],
                [("x@far.example", "failed", "5.4.7")],
            ]
            assert w.clock.at == T0 + 96 * HOUR
            assert attempts == 31
            assert (await w.counts())[:2] == (0, 0)
            lines = await trace(w.database, number)
            assert [line.event for line in lines if line.stage == "relay"] == ["deferred"] * 30 + ["failed"]

    run(play())


@each_engine
def test_wishes_of_the_sender_decide_what_is_told(open_db: OpenDatabase, tmp_path: Path) -> None:
    def wish(name: str, *notify: Notify) -> Recipient:
        return Recipient(address(f"{name}@far.example"), frozenset(notify), f"rfc822;{name}@alias.example")

    async def play() -> None:
        answers = {f"no{n}@far.example": NO for n in range(3)}
        async with world(open_db, tmp_path, relay=Scripted(answers, dsn_passed=False)) as w:
            await w.submit(
                recipients=(
                    wish("no0", Notify.NEVER),
                    wish("no1", Notify.SUCCESS),
                    wish("no2", Notify.FAILURE),
                    wish("yes0", Notify.SUCCESS),
                    wish("yes1", Notify.FAILURE),
                ),
                envid="an id",
            )
            await w.work()
            assert [statuses(content) for _, content in w.boxes.filed] == [
                [("no2@far.example", "failed", "5.1.1")],
                [("yes0@far.example", "relayed", "2.0.0")],
            ]
            assert all(b"Original-Envelope-Id: an id\r\n" in content for _, content in w.boxes.filed)
            assert b"Original-Recipient: rfc822;no2@alias.example" in w.boxes.filed[0][1]

    run(play())


@pytest.mark.row("OUT-05")
@pytest.mark.parametrize(
    "header",
    [
        b"Subject: a\rBcc: evil@far.example\r\nFrom: x\r\n",
        b"Subject: =?utf-8?q?hello=0D=0ABcc=3A_evil=40x?= " + b"w" * 90 + b"\r\n",
        b"Subject: \x00\xff\xfe 8-bit\r\n",
        b"no colon at all\r\n",
        b"X: " + b"y" * 200_000 + b"\r\nSubject: z\r\n",
    ],
)
def test_a_report_is_well_formed_whatever_the_mail_was(tmp_path: Path, header: bytes) -> None:
    async def play() -> None:
        async with world(open_sqlite, tmp_path, relay=Scripted({'"a b\\"c"@far.example': NO})) as w:
            await w.submit('a b"c@far.example', content=header + b"\r\nbody\r\n")
            await w.work()
            ((_, content),) = w.boxes.filed
            message = read(content)
            assert [part.get_content_type() for part in message.iter_parts()] == [
                "text/plain",
                "message/delivery-status",
                "text/rfc822-headers",
            ]
            assert "Bcc" not in message
            assert len(content) < 110_000
            assert b"\0" not in content

    run(play())


@each_engine
def test_a_next_hop_that_was_never_reached_is_not_quoted_as_saying_anything(
    open_db: OpenDatabase, tmp_path: Path
) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"x@far.example": DOWN})) as w:
            await w.submit("x@far.example")
            while await w.rows():
                await w.work()
                for row in await w.rows():
                    w.clock.pass_by((row[3] - w.clock.at) / seconds(1))
            assert statuses(w.boxes.filed[-1][1]) == [("x@far.example", "failed", "5.4.7")]

    run(play())


@each_engine
def test_when_the_report_cannot_be_written_the_failure_waits(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"no@far.example": NO})) as w:
            await w.submit("no@far.example")

            async def broken(*_: object) -> bytes:
                raise RuntimeError("no key")

            settler = w.settler()
            settler._reporter._sealer.seal = broken  # type: ignore[method-assign,assignment]  # a fault
            await w.work(w.worker(settler=settler))
            ((*_, attempts, error),) = await w.rows()
            assert (attempts, error) == (1, "550 5.1.1 who?")
            await settle_again(w)

    async def settle_again(w: World) -> None:
        w.clock.pass_by(400)
        await w.work()
        assert len(w.boxes.filed) == 1
        assert (await w.counts())[:2] == (0, 0)

    run(play())


@each_engine
def test_local_lmtp_is_tried_soon_again(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def play() -> None:
        async with world(open_db, tmp_path, relay=Scripted({"joe@here.example": LATER})) as w:
            await w.submit("joe@here.example", route=Route(RouteKind.HOST, "/run/lmtp", lmtp=True))
            await w.work()
            ((_, _, _, due, _, _),) = await w.rows()
            assert due == T0 + seconds(10)

    run(play())
