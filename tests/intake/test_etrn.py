"""ETRN (RFC 1985): who may start the queue for a domain, how often, and what is said."""

import pytest

from gatepost.base.clock import later, seconds
from gatepost.base.reply import Refusal
from gatepost.codec.smtp.etrn import Etrn, parse_etrn
from gatepost.intake.etrn import EVERY, NODES, Turns
from gatepost.queue import verbs
from tests.intake.world import World, world
from tests.support.loop import run

NEAR = ("192.0.2.0/24",)


async def fill(here: World) -> None:
    """Let a mail wait for far.example, due in an hour."""
    async with here.client() as talk:
        await talk.begin("<a@sender.example>", "away@here.example")
        await talk.send(b"From: Ann <a@sender.example>\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n")
    await verbs.hold_chosen(here.database, verbs.Choice("far.example"))
    await verbs.release_chosen(here.database, verbs.Choice("far.example"), later(here.clock.now(), seconds(3600)))


def test_a_named_network_starts_the_queue_for_a_node() -> None:
    async def scene() -> None:
        async with world(etrn=NEAR) as here:
            await fill(here)
            async with here.client(ip="192.0.2.9") as talk:
                assert b"\r\n250-ETRN\r\n" in (await talk.send(b"EHLO far.example\r\n")).replace(
                    b"250 ETRN", b"250-ETRN"
                )
                assert (
                    await talk.send(b"ETRN Far.Example\r\n")
                    == b"250 2.0.0 Queuing for node far.example started\r\n"
                )
                (waiting,) = await verbs.list_queue(here.database)
                assert waiting.due == here.clock.now()
                assert await talk.send(b"ETRN none.example\r\n") == (
                    b"251 2.0.0 OK, no messages waiting for node none.example\r\n"
                )
                assert await talk.send(b"ETRN @example\r\n") == b"250 2.0.0 Queuing for node example started\r\n"
                again = b"458 4.3.0 Unable to queue messages for node far.example\r\n"
                assert await talk.send(b"ETRN far.example\r\n") == again
                here.clock.move(EVERY + 1)
                assert (await talk.send(b"ETRN far.example\r\n"))[:3] == b"250"

    run(scene())


def test_strangers_are_refused_and_not_told_of_it() -> None:
    async def scene() -> None:
        async with world(etrn=NEAR) as here:
            await fill(here)
            async with here.client(ip="198.51.100.7") as talk:
                assert b"ETRN" not in await talk.send(b"EHLO far.example\r\n")
                assert await talk.send(b"ETRN far.example\r\n") == (
                    b"459 4.7.1 Node far.example not allowed: you are not on the list\r\n"
                )
                (waiting,) = await verbs.list_queue(here.database)
                assert waiting.due > here.clock.now()
        async with world() as here, here.client(ip="192.0.2.9") as talk:
            assert b"ETRN" not in await talk.send(b"EHLO far.example\r\n")
            assert await talk.say("ETRN far.example") == ["502 5.5.1"]

    run(scene())


def test_etrn_stands_between_transactions_only() -> None:
    async def scene() -> None:
        async with world(etrn=NEAR) as here, here.client(ip="192.0.2.9", hello=False) as talk:
            assert await talk.say("ETRN far.example") == ["503 5.5.1"]
            said = await talk.say("EHLO far.example", "MAIL FROM:<a@far.example>", "ETRN far.example", "RSET")
            assert said[1:] == ["250 2.1.0", "503 5.5.1", "250 2.0.0"]
            assert await talk.say("ETRN", "ETRN two words", "ETRN #queue", "ETRN -bad-") == [
                "501 5.5.4",
                "501 5.5.4",
                "458 4.3.0",
                "501 5.5.4",
            ]

    run(scene())


@pytest.mark.parametrize(
    ("rest", "read"),
    [
        (b"Far.Example", Etrn("far.example")),
        (b" far.example ", Etrn("far.example")),
        (b"@far.example", Etrn("far.example", subdomains=True)),
    ],
)
def test_a_node_is_read(rest: bytes, read: Etrn) -> None:
    assert parse_etrn(rest) == read


@pytest.mark.parametrize(
    "rest", [b"", b"a b", b"@", b"far..example", b"x" * 256, b"\xc3\xa9.example", b"#q;DROP--"]
)
def test_what_is_no_node_is_refused(rest: bytes) -> None:
    with pytest.raises(Refusal):
        parse_etrn(rest)


def test_turns_are_remembered_for_a_minute_and_bounded() -> None:
    turns = Turns()
    assert turns.take("a.example", 0.0)
    assert not turns.take("a.example", EVERY - 0.1)
    assert turns.take("a.example", EVERY)
    assert [turns.take(f"{n}.example", EVERY + 1) for n in range(NODES)] == [True] * (NODES - 1) + [False]
    assert turns.take("z.example", 3 * EVERY)
