"""What MAIL and the header ask about the way of a mail goes along into the queue."""

import asyncio

import pytest

from gatepost.base.clock import HOUR, Instant
from gatepost.base.envelope import DeliverBy, Privacy, Wishes
from gatepost.base.ids import MailId
from gatepost.base.units import Seconds
from gatepost.intake import local
from gatepost.queue.model import unpack_mail
from tests.intake.world import PLAIN_BOB, Talk, World, world
from tests.support.loop import run
from tests.support.wire import START, MemoryWire

MAIL = b"From: bob@here.example\r\nSubject: x\r\n"


async def wishes(here: World) -> Wishes:
    """Return those of the one mail in the queue."""
    ((packed,),) = await here.rows("SELECT packed FROM queue_mail")
    assert isinstance(packed, bytes)
    return unpack_mail(MailId(1), 0, 0, 0, 1, packed).wishes


async def submit(talk: Talk, parameters: str = "", header: bytes = b"") -> str:
    assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
    sender = f"<bob@here.example> {parameters}".rstrip()
    return await talk.mail(MAIL + header + b"\r\nhi\r\n", sender, "out@far.example")


@pytest.mark.parametrize(
    ("parameters", "header", "privacy"),
    [
        ("", b"", Privacy.USUAL),
        ("REQUIRETLS", b"", Privacy.REQUIRED),
        ("", b"TLS-Required: No\r\n", Privacy.WAIVED),
        ("", b"tls-required:\r\n nO\r\n", Privacy.WAIVED),
        ("", b"TLS-Required: Maybe\r\n", Privacy.USUAL),
        ("", b"TLS-Required: No\r\nTLS-Required: No\r\n", Privacy.USUAL),  # §3: MUST NOT stand twice
        ("REQUIRETLS", b"TLS-Required: No\r\n", Privacy.REQUIRED),  # §4.1: it is ignored
    ],
)
def test_requiretls_and_the_header_field_are_kept(parameters: str, header: bytes, privacy: Privacy) -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await submit(talk, parameters, header) == "250 2.0.0"
            assert (await wishes(here)).privacy is privacy

    run(scene())


def test_a_forward_keeps_what_a_stranger_required() -> None:
    async def scene() -> None:
        async with world() as here, here.client(tls=True) as talk:
            sender = "<a@sender.example> REQUIRETLS"
            assert await talk.mail(MAIL + b"\r\nhi\r\n", sender, "away@here.example") == "250 2.0.0"
            assert (await wishes(here)).privacy is Privacy.REQUIRED

    run(scene())


@pytest.mark.parametrize(
    ("parameters", "priority", "reply"),
    [("MT-PRIORITY=3", 3, "250 2.0.0"), ("MT-PRIORITY=-9", -9, "250 2.0.0"), ("MT-PRIORITY=9", 4, "250 2.3.6")],
)
def test_a_user_says_how_urgent_it_is_up_to_a_limit(parameters: str, priority: int, reply: str) -> None:
    async def scene() -> None:
        async with world(max_priority=4) as here, here.client("submission", tls=True) as talk:
            assert await submit(talk, parameters) == reply
            assert (await wishes(here)).priority == priority
            ((urgency,),) = await here.rows("SELECT urgency FROM queue_rcpt")
            assert urgency == -priority
            ((body,),) = await here.rows("SELECT body FROM queue_mail")
            content = await here.services.bodies.get(int(str(body)))  # type: ignore[attr-defined]  # Blobs
            assert f"\r\n\tpriority {priority};\r\n".encode() in content

    run(scene())


def test_what_became_of_the_priority_is_told_with_its_number_first() -> None:
    async def scene() -> None:
        async with world(max_priority=0) as here, here.client("submission", tls=True) as talk:
            await talk.say(PLAIN_BOB, "MAIL FROM:<bob@here.example> MT-PRIORITY=1", "RCPT TO:<out@far.example>")
            await talk.say("DATA")
            said = await talk.send(MAIL + b"\r\nhi\r\n.\r\n")
            assert said.startswith(b"250 2.3.6 0 is the new priority assigned to the message; ")
            assert said.endswith(b" accepted\r\n")

    run(scene())


def test_programs_here_may_ask_and_strangers_may_not() -> None:
    async def scene() -> None:
        async with world() as here:
            async with here.client(tls=True) as talk:
                assert await talk.say("MAIL FROM:<a@sender.example> MT-PRIORITY=1") == ["555 5.5.4"]
            wire = MemoryWire(here.clock)
            async with asyncio.TaskGroup() as group:
                group.create_task(local.serve(wire, here.services, 0))
                talk = Talk(wire, here.clock)
                assert b"MT-PRIORITY MIXER" in await talk.send(b"EHLO here\r\n")
                assert await talk.say("MAIL FROM:<bob@here.example> MT-PRIORITY=1") == ["250 2.1.0"]
                wire.hang_up()

    run(scene())


def test_a_time_counts_from_mail() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await submit(talk, "BY=3600;RT") == "250 2.0.0"
            assert (await wishes(here)).by == DeliverBy(Instant(START + HOUR), returns=True, trace=True)

    run(scene())


@pytest.mark.parametrize(
    ("parameters", "reply"),
    [
        ("HOLDFOR=86400", "250 2.1.0"),
        ("HOLDFOR=86401", "501 5.5.4"),
        ("HOLDUNTIL=2026-11-24T08:00:00Z", "250 2.1.0"),
        ("HOLDUNTIL=2026-11-24T08:00:01Z", "501 5.5.4"),
        ("HOLDUNTIL=2026-11-23T08:00:00Z", "501 5.5.4"),  # now
        ("HOLDFOR=600 BY=600;R", "501 5.5.4"),
        ("HOLDFOR=600 BY=601;R MT-PRIORITY=1 REQUIRETLS", "250 2.1.0"),
    ],
)
def test_mail_is_held_back_within_limits(parameters: str, reply: str) -> None:
    async def scene() -> None:
        async with world(future_release=Seconds(86_400)) as here, here.client("submission", tls=True) as talk:
            assert b"\r\n250-FUTURERELEASE 86400 2026-11-24T08:00:00Z\r\n" in await talk.send(b"EHLO x\r\n")
            assert await talk.say(PLAIN_BOB, f"MAIL FROM:<bob@here.example> {parameters}") == ["235 2.7.0", reply]

    run(scene())


def test_where_nothing_is_held_back_it_is_not_offered() -> None:
    async def scene() -> None:
        async with world(future_release=Seconds(0)) as here, here.client("submission", tls=True) as talk:
            assert b"FUTURERELEASE" not in await talk.send(b"EHLO x\r\n")
            assert await talk.say(PLAIN_BOB, "MAIL FROM:<bob@here.example> HOLDFOR=1") == ["235 2.7.0", "555 5.5.4"]

    run(scene())


def test_mail_for_mailboxes_here_waits_in_the_queue_as_well() -> None:
    async def scene() -> None:
        async with world() as here, here.client("submission", tls=True) as talk:
            assert await talk.say(PLAIN_BOB) == ["235 2.7.0"]
            sender = "<bob@here.example> HOLDFOR=3600"
            to = ("alice@here.example", "team@here.example", "bob@here.example")
            assert await talk.mail(MAIL + b"\r\nhi\r\n", sender, *to) == "250 2.0.0"
            assert await here.mails("alice") == await here.mails("bob") == []
            rows = await here.rows("SELECT recipient, due, not_before, lane FROM queue_rcpt ORDER BY 1")
            until = START + HOUR
            assert rows == [
                ("alice@here.example", until, until, f"mailbox://{here.accounts['alice']}"),
                ("bob@here.example", until, until, f"mailbox://{here.accounts['bob']}"),  # named twice
                ("out@far.example", until, until, "far.example"),
            ]
            assert (await wishes(here)).not_before == until

    run(scene())
