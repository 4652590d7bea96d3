"""A mail that is accepted: what is stored, what is queued, what is told, and when the 250 is said."""

import pytest

from gatepost.base.address import Address
from gatepost.base.ids import parse_id
from gatepost.db.unit import NoRoom, Unhealthy
from gatepost.diary.verbs import trace
from tests.intake.world import PLAIN_BOB, Talk, World, code, world
from tests.support.loop import run

MAIL = b"From: Ann <a@sender.example>\r\nTo: bob@here.example\r\nSubject: peas\r\n\r\nThe peas are in.\r\n"


def test_a_mail_is_stored_with_only_fields_put_on_top() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.begin() == ["250 2.1.0", "250 2.1.5", "354"]
            said = await talk.send(MAIL + b".\r\n")
            assert said.startswith(b"250 2.0.0 ")
            assert said.endswith(b" accepted\r\n")
            (stored,) = await here.mails("bob")
            name = said.split(b" ")[2]
            assert stored == (
                b"Return-Path: <a@sender.example>\r\n"
                b"Received: from client.example (client.example [192.0.2.9])\r\n"
                b"\tby mx.example (gatepost) with ESMTP id " + name + b"\r\n"
                b"\tfor <bob@here.example>;\r\n\tMon, 23 Nov 2026 08:00:00 +0000\r\n" + MAIL
            )
            assert here.budget.memory == 64 << 20

    run(scene())


def test_a_mail_for_a_mailbox_and_elsewhere_has_a_return_path_only_in_the_mailbox() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert (
                await talk.mail(MAIL, "<a@sender.example>", "team@here.example", "bob@here.example") == "250 2.0.0"
            )
            assert len(await here.mails("bob")) == 1  # named twice, kept once
            assert await here.queued() == ["out@far.example"]
            (row,) = await here.rows("SELECT body FROM queue_mail")
            queued = await here.services.bodies.get(int(str(row[0])))  # type: ignore[attr-defined]  # Blobs
            assert queued.startswith(b"Received: ")
            assert queued.endswith(MAIL)
            assert b"\tfor " not in queued  # two recipients: neither learns of the other
            assert await here.count("body") == 2

    run(scene())


def test_a_foreign_return_path_is_replaced() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            assert await talk.mail(b"Return-Path: <forged@x.example>\r\n" + MAIL) == "250 2.0.0"
            (stored,) = await here.mails("bob")
            assert stored.count(b"Return-Path:") == 1
            assert b"forged" not in stored

    run(scene())


def test_a_client_whose_name_does_not_point_back_has_none() -> None:
    async def scene() -> None:
        async with world() as here, here.client(ip="192.0.2.66") as talk:
            await talk.mail(MAIL)
            assert b"from client.example (unknown [192.0.2.66])" in (await here.mails("bob"))[0]

    run(scene())


def test_the_story_of_a_mail_is_told_in_its_unit() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.begin("<a@sender.example>", "team@here.example")
            said = await talk.send(MAIL + b".\r\n")
            mail = parse_id(said.split(b" ")[2].decode())
            lines = await trace(here.database, mail)
            assert [(line.stage, line.event) for line in lines] == [
                ("intake", "mail"),
                ("policy", "mailbox"),
                ("policy", "relay"),
                ("judge", "accept"),
                ("intake", "accepted"),
            ]
            assert dict(lines[0].fields)["rdns"] == "client.example"
            assert await trace(here.database, Address("team", "here.example")) == lines
            assert await trace(here.database, Address("a", "sender.example")) == lines

    run(scene())


@pytest.mark.row("REL-11")
@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"MAIL FROM:<a@sender.example>\r\n",
        b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<bob@here.example>\r\n",
        b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<bob@here.example>\r\nDATA\r\n",
        b"BODY",
        b"BODY\r\n.",
        b"BODY\r\n.\r",
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_goes_before_the_end_leaves_nothing(octets: bytes, reset: bool) -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                if octets.startswith(b"BODY"):
                    await talk.begin()
                    await talk.send(MAIL + octets)
                else:
                    await talk.send(octets)
                (talk.wire.break_off if reset else talk.wire.hang_up)()
            assert talk.wire.closed
            assert await here.mails("bob") == []
            assert here.budget.memory == 64 << 20

    run(scene())


@pytest.mark.row("REL-12")
def test_a_mail_whose_250_nobody_read_stays() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client() as talk:
                await talk.begin()

                async def reset() -> None:
                    talk.wire.break_off()

                here.database.before = reset
                talk.wire.send(MAIL + b".\r\n")
                await talk.wire.settle()
            here.database.before = None
            assert len(await here.mails("bob")) == 1
            (accepted,) = here.log.events("mail_accepted")
            (line, *_) = await trace(here.database, parse_id(str(accepted["message"])))
            assert dict(line.fields)["sender"] == "a@sender.example"

    run(scene())


@pytest.mark.row("REL-15")
def test_a_server_that_drains_says_so_to_the_idle_and_lets_a_body_finish() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as idle, here.client() as busy, here.client() as fresh:
            await idle.mail(MAIL)
            await busy.begin()
            await busy.send(MAIL)
            for talk in (idle, busy, fresh):
                talk.wire.dismiss()
            assert code(await idle.hear()) == "421 4.3.2"
            assert [idle.wire.closed, busy.wire.closed, fresh.wire.closed] == [True, False, False]
            await fresh.begin()
            said = await fresh.send(MAIL + b".\r\n")
            assert said.startswith(b"250 2.0.0 ")
            assert said.endswith(b"421 4.3.2 Service is restarting, try again\r\n")
            said = await busy.send(b".\r\n")
            assert said.startswith(b"250 2.0.0 ")
            assert said.endswith(b"421 4.3.2 Service is restarting, try again\r\n")
            assert busy.wire.closed
            assert len(await here.mails("bob")) == 3

    run(scene())


def test_nothing_is_acknowledged_before_the_commit_returned() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.begin()
            heard: list[bytes] = []

            async def look() -> None:
                heard.append(talk.wire.look())

            here.database.before = look
            assert (await talk.send(MAIL + b".\r\n")).startswith(b"250")
            assert heard == [b""]

    run(scene())


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(NoRoom("full"), "452 4.3.1"), (Unhealthy("EIO"), "451 4.3.0"), (RuntimeError("a bug"), "451 4.3.0")],
)
def test_what_is_not_committed_is_put_off(problem: Exception, expected: str) -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            here.database.problem = problem
            await talk.begin()
            said = await talk.send(MAIL + b".\r\n")
            assert code(said) == expected
            assert b"a bug" not in said
            assert here.budget.memory == 64 << 20
            here.database.problem = None
            assert await talk.mail(MAIL) == "250 2.0.0"
            assert len(await here.mails("bob")) == 1

    run(scene())


def test_a_mail_for_which_there_is_no_room_while_it_arrives_is_put_off() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            here.budget.memory = 50
            await talk.begin()
            assert code(await talk.send(MAIL + b".\r\n")) == "452 4.3.1"
            assert here.budget.memory == 50

    run(scene())


def test_a_full_mailbox_is_told_at_rcpt_and_if_it_filled_since_at_the_end() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk, here.client() as other:
            await talk.begin("<a@sender.example>", "full@here.example")
            assert await other.mail(MAIL, "<a@sender.example>", "full@here.example") == "250 2.0.0"
            assert code(await talk.send(MAIL + b".\r\n")) == "452 4.2.2"
            assert await talk.say("MAIL FROM:<a@sender.example>", "RCPT TO:<full@here.example>") == [
                "250 2.1.0",
                "452 4.2.2",
            ]
            assert len(await here.mails("full")) == 1

    run(scene())


def test_lmtp_answers_for_each_recipient_alone() -> None:
    async def scene() -> None:
        async with world() as here, here.client("lmtp", ip="127.0.0.1") as talk, here.client() as other:
            recipients = ("bob@here.example", "full@here.example", "alice@here.example")
            await talk.begin("<a@sender.example>", *recipients)
            assert await other.mail(MAIL, "<a@sender.example>", "full@here.example") == "250 2.0.0"
            said = await talk.send(b"Subject: no From\r\n\r\n.\r\n")
            assert [line[:9] for line in said.split(b"\r\n")[:-1]] == [b"250 2.0.0", b"452 4.2.2", b"250 2.0.0"]
            assert len(await here.mails("bob")) == len(await here.mails("alice")) == 1
            assert await talk.say("MAIL FROM:<>", "RCPT TO:<bob@far.example>") == ["250 2.1.0", "550 5.7.1"]

    run(scene())


def test_a_large_mail_goes_over_the_disk_and_arrives_whole() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            body = MAIL + b"".join(b"%070d\r\n" % number for number in range(40_000))
            await talk.begin()
            for at in range(0, len(body), 1 << 18):
                await talk.send(body[at : at + (1 << 18)])
            assert code(await talk.send(b".\r\n")) == "250 2.0.0"
            assert (await here.mails("bob"))[0].endswith(body)
            assert (here.budget.memory, here.budget.disk) == (64 << 20, 256 << 20)

    run(scene())


async def submitted(here: World, talk: Talk, content: bytes, recipient: str = "out@far.example") -> bytes:
    """Submit a mail as bob; return what was queued."""
    assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
    assert await talk.mail(content, "<bob@here.example>", recipient) == "250 2.0.0"
    (row,) = await here.rows("SELECT body FROM queue_mail")
    body: bytes = await here.services.bodies.get(int(str(row[0])))  # type: ignore[attr-defined]  # Blobs
    return body


def test_a_submitted_mail_gets_what_it_lacks_and_is_sealed_without_bcc() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            body = await submitted(here, talk, b"From: bob@here.example\r\nBcc: x@y.example\r\n\r\nhi\r\n")
            lines = body.split(b"\r\n")
            assert lines[0] == b"DKIM-Signature: v=1; d=here.example"
            assert lines[1].startswith(b"Received: from client.example (unknown [192.0.2.9])")
            assert b" with ESMTPSA id " in lines[2]
            assert b"\r\nDate: Mon, 23 Nov 2026 08:00:00 +0000\r\nMessage-ID: <" in body
            assert b"Bcc" not in body
            assert body.endswith(b"\r\nFrom: bob@here.example\r\n\r\nhi\r\n")
            assert here.pen.signed == [("here.example", [b"date", b"message-id", b"from"], b"hi\r\n")]

    run(scene())


def test_a_submitted_mail_without_an_author_gets_its_sender() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            body = await submitted(here, talk, b"Subject: x\r\nDate: now\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n")
            assert b"From: <bob@here.example>\r\nSubject: x\r\nDate: now\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n" in body

    run(scene())


def test_a_stranger_s_mail_is_not_mended() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            await talk.mail(b"From: a@sender.example\r\nBcc: bob\r\n\r\n")
            assert (await here.mails("bob"))[0].endswith(b"+0000\r\nFrom: a@sender.example\r\nBcc: bob\r\n\r\n")

    run(scene())


def test_dsn_wishes_reach_the_queue() -> None:
    async def scene() -> None:
        async with world() as here, here.client() as talk:
            codes = await talk.say(
                "MAIL FROM:<a@sender.example> RET=HDRS ENVID=QQ1 BODY=8BITMIME SIZE=100",
                "RCPT TO:<away@here.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;away@here.example",
                "DATA",
            )
            assert codes == ["250 2.1.0", "250 2.1.5", "354"]
            assert code(await talk.send(MAIL + b".\r\n")) == "250 2.0.0"
            (packed,) = (row[0] for row in await here.rows("SELECT packed FROM queue_rcpt"))
            assert isinstance(packed, bytes)
            assert b"SUCCESS" in packed
            assert b"rfc822;away@here.example" in packed

    run(scene())
