"""Held clients: the pace of spamd, its places, its log, and who gives himself away."""

import asyncio
from dataclasses import replace

import pytest

from gatepost.base.units import Seconds
from gatepost.gate.gate import ctime, lists_text, printable
from gatepost.gate.settings import GateSettings, TooEarlyAction
from gatepost.gate.verbs import add_entries
from tests.gate.world import QUIET, SENDER, START, Play, World, world
from tests.support.loop import run

SLOW = GateSettings(exempt=())
BANNER = f"220 mx.example.org ESMTP spamd IP-based SPAM blocker; {ctime(START)}\r\n"


async def _listed(here: World, *ips: str) -> None:
    await add_entries(here.database, "spamd", ips, here.now)
    await here.learn()


@pytest.mark.row("GR-04", "SYNC-10")
def test_a_black_client_is_told_one_letter_a_second_to_the_end() -> None:
    async def scene() -> None:
        async with world(SLOW) as here:
            await _listed(here, SENDER)
            wire = here.connect()
            play = Play(here.clock, wire)
            began = here.clock.steady()
            play.wait(len(BANNER) + 0.5)
            assert wire.text == BANNER
            assert [round(at - began) for at, _ in wire.said] == list(range(1, len(BANNER) + 1))
            wire.send(b"HELO x\r\n")
            play.wait(30)
            assert len(wire.said) == len(BANNER) + 30

    run(scene())


@pytest.mark.row("GR-01")
def test_a_grey_client_is_told_at_full_speed_after_more_than_ten_seconds() -> None:
    async def scene() -> None:
        async with world(SLOW) as here:
            wire = here.connect()
            Play(here.clock, wire).wait(10)
            assert wire.text == BANNER[:10]
            Play(here.clock, wire).wait(1)
            assert wire.text == BANNER
            wire.send(b"HELO x\r\n")
            assert wire.text.endswith("wasting your time.\r\n")

    run(scene())


def test_grey_stutter_0_and_more_black_than_their_places_are_not_stuttered_at() -> None:
    async def scene() -> None:
        settings = replace(SLOW, grey_stutter=Seconds(0), connections=200, source_connections=0)
        async with world(settings) as here:
            assert here.connect().text == BANNER
            await _listed(here, "192.0.2.1")
            wires = [here.connect("192.0.2.1") for _ in range(101)]
            assert [wire.text for wire in wires[99:]] == ["", BANNER]

    run(scene())


def test_when_nearly_full_whole_pieces_are_written_after_their_delay() -> None:
    async def scene() -> None:
        async with world(replace(SLOW, connections=6)) as here:
            wire = here.connect()
            Play(here.clock, wire).wait(0.9)
            assert wire.text == ""
            Play(here.clock, wire).wait(0.2)
            assert wire.text == BANNER

    run(scene())


def test_all_times_are_scaled() -> None:
    async def scene() -> None:
        async with world(replace(SLOW, scale=5.0)) as here:
            wire = here.connect()
            Play(here.clock, wire).wait(1.1)
            assert wire.text == BANNER[:5]

    run(scene())


@pytest.mark.row("SYNC-10")
def test_a_stutter_finer_than_the_wheel_is_still_letter_by_letter() -> None:
    async def scene() -> None:
        async with world(replace(SLOW, stutter=Seconds(0.001))) as here:
            wire = here.connect()
            while wire.text != BANNER:
                await asyncio.sleep(0.001)
                here.clock.move(0.001)
            assert len(wire.said) == len(BANNER)

    run(scene())


@pytest.mark.row("GR-03", "GR-04")
def test_the_log_is_spamds() -> None:
    async def scene() -> None:
        async with world(replace(SLOW, stutter=Seconds(0))) as here:
            await _listed(here, SENDER)
            first = here.connect("192.0.2.1")
            second = here.connect()
            second.send(b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c\x1b@d>\r\nDATA\r\nFrom: me\r\n\r\nhello\r\n")
            here.clock.move(7.9)
            first.close()
            second.close()
            Play(here.clock, first, second).end_closed()
            assert here.journal.texts == [
                "192.0.2.1: connected (1/0)",
                "198.51.100.7: connected (2/1), lists: spamd",
                "(BLACK) 198.51.100.7: <a@b> -> <c?@d>",
                "198.51.100.7: From: me",
                "198.51.100.7: Body: hello",
                "192.0.2.1: disconnected after 7 seconds.",
                "198.51.100.7: disconnected after 7 seconds. lists: spamd",
            ]
            assert (here.gate.counts().held, here.gate.counts().black, here.gate.counts().taken) == (0, 0, 2)

    run(scene())


def test_many_lists_are_cut_in_the_log() -> None:
    assert lists_text(["a" * 30, "b" * 30, "c" * 30, "d"]) == f" {'a' * 30} {'b' * 30} ..."
    assert printable("\x1b[2Jä\u202e".encode() + b"\xff") == "?[2Jä?\ufffd"


@pytest.mark.row("SYNC-10")
def test_one_more_than_the_places_is_closed_without_a_word() -> None:
    async def scene() -> None:
        async with world(replace(QUIET, connections=10, source_connections=0)) as here:
            wires = [here.connect() for _ in range(11)]
            assert [wire.closed for wire in wires] == [False] * 10 + [True]
            assert wires[10].said == []
            assert len(here.journal.texts) == 10
            wires[0].close()
            Play(here.clock, *wires[:10]).end_closed()
            assert not here.connect().closed

    run(scene())


def test_a_source_has_five_places_and_an_ipv6_source_is_a_64() -> None:
    async def scene() -> None:
        async with world(QUIET) as here:
            await add_entries(here.database, "spamd", ["2001:db8::/32"], here.now)
            await here.learn()
            wires = [here.connect(f"2001:db8::{at}") for at in range(1, 7)]
            assert [wire.closed for wire in wires] == [False] * 5 + [True]
            assert not here.connect("2001:db8:0:1::1").closed
            assert here.gate.counts().turned_away == 1

    run(scene())


def test_a_silent_client_is_closed_after_400_seconds_and_half_a_line_does_not_help() -> None:
    async def scene() -> None:
        async with world(QUIET) as here:
            wire = here.connect()
            play = Play(here.clock, wire)
            play.wait(300)
            wire.send(b"HEL")
            ends = []
            for length in (99, 2):
                play.wait(length)
                ends.append(wire.closed)
            assert ends == [False, True]
            assert wire.text == BANNER
            assert here.journal.texts[-1] == f"{SENDER}: disconnected after 400 seconds."

    run(scene())


def test_ten_thousand_pipelined_commands_are_each_answered() -> None:
    async def scene() -> None:
        async with world(QUIET) as here:
            wire = here.connect()
            wire.send(b"NOOP\n" * 10_000 + b"QUIT\n")
            assert wire.text.count("250 2.0.0 OK") == 10_000
            assert wire.closed

    run(scene())


def test_pipelined_commands_wait_for_slow_answers_and_a_flood_is_cut_off() -> None:
    async def scene() -> None:
        async with world(SLOW) as here:
            await _listed(here, SENDER)
            wire = here.connect()
            play = Play(here.clock, wire)
            play.wait(len(BANNER) + 1)
            wire.send(b"HELO x\r\nNOOP\r\n")
            assert wire.text == BANNER
            play.wait(200)
            assert wire.text.endswith("250 2.0.0 OK I did nothing\r\n")
            wire.send(b"NOOP\r\n" + b"x" * 70_000)
            wire.send(b"x" * 70_000)
            assert wire.reset

    run(scene())


@pytest.mark.row("SMTP-08")
@pytest.mark.parametrize("action", list(TooEarlyAction))
def test_a_client_that_speaks_before_its_banner(action: TooEarlyAction) -> None:
    async def scene() -> None:
        async with world(replace(SLOW, too_early=action)) as here:
            wire = here.connect(early=b"EHLO x\r\nMAIL FROM:<a@b>\r\n")
            play = Play(here.clock, wire)
            play.wait(11.5)
            assert here.gate.counts().too_early == 1
            match action:
                case TooEarlyAction.IGNORE:
                    assert wire.text.count("250 ") == 2
                case TooEarlyAction.TARPIT:
                    assert wire.text == BANNER[:11]
                    play.wait(len(BANNER) + 300)
                    wire.send(b"RCPT TO:<c@d>\r\nDATA\r\n")
                    play.wait(200)
                    assert wire.text.endswith("451 Temporary failure, please try again later.\r\n")
                    assert here.gate.counts().offers == 0
                case TooEarlyAction.REFUSE:
                    play.wait(300)
                    assert wire.text.endswith("\r\n554 5.5.1 You spoke before you were greeted\r\n")
                    assert wire.closed

    run(scene())


def test_a_client_that_waits_for_its_banner_is_not_too_early() -> None:
    async def scene() -> None:
        async with world(SLOW) as here:
            wire = here.connect()
            Play(here.clock, wire).wait(12)
            wire.send(b"EHLO x\r\n")
            assert here.gate.counts().too_early == 0

    run(scene())


def test_what_comes_after_the_end_is_dropped() -> None:
    async def scene() -> None:
        async with world(SLOW) as here:
            await _listed(here, SENDER)
            wire = here.connect()
            play = Play(here.clock, wire)
            play.wait(100)
            wire.send(b"DATA\r\n")
            play.wait(100)
            wire.send(b".\r\n")
            wire.send(b"QUIT\r\n" * 50_000)
            play.wait(300)
            assert "221" not in wire.text
            assert wire.closed

    run(scene())
