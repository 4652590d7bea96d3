"""spamd's own port behind a filter: nobody passes there, and every list counts."""

from dataclasses import replace

import pytest

from gatepost.gate.decide import Verdict
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import parse_prefix
from gatepost.gate.redirect import redirected
from gatepost.gate.settings import Mode
from gatepost.gate.tarpit import RESERVE, SERVED, places
from gatepost.gate.verbs import add_entries, add_trapped, add_white
from tests.gate.world import QUIET, SENDER, HeldWire, World, world
from tests.support.loop import run


def networks(*texts: str) -> Networks:
    return Networks.of(map(parse_prefix, texts))


def hold(here: World, ip: str = SENDER) -> HeldWire:
    wire = HeldWire(ip)
    here.gate.hold(wire, redirected(ip, here.gate))
    return wire


@pytest.mark.row("GR-08")
def test_who_was_redirected_is_held_whatever_the_tables_of_the_gate_say_of_port_25() -> None:
    async def scene() -> None:
        async with world(replace(QUIET, mode=Mode.FRIENDLY, greylist=False)) as here:
            await add_entries(here.database, "nospamd", [SENDER], here.now)
            await add_white(here.database, ["192.0.2.9"], here.now, QUIET)
            await here.learn()
            for ip in (SENDER, "192.0.2.9", "127.0.0.1", "192.0.2.1", "2001:db8::1"):
                assert here.gate.decide(ip, "mx").verdict is Verdict.PASS or ip == "192.0.2.1"
                assert redirected(ip, here.gate).verdict is Verdict.GREY

    run(scene())


@pytest.mark.row("GR-08", "GR-01")
def test_a_redirected_sender_is_told_451_and_becomes_white_as_any_other() -> None:
    async def scene() -> None:
        async with world() as here:
            for length in (0, 25 * 60 + 1):
                here.clock.move(length)
                wire = hold(here)
                wire.send(b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
                assert wire.text.endswith("\r\n451 Temporary failure, please try again later.\r\n")
                assert wire.closed
            assert await here.scan() == 1
            assert here.verdict() == "pass"

    run(scene())


@pytest.mark.row("GR-05", "GR-08", "GR-04")
def test_all_lists_of_a_redirected_sender_tell_it_what_they_think_in_their_order() -> None:
    async def scene() -> None:
        async with world() as here:
            await here.gate.publish(
                "uatraps", "list:uatraps", networks(SENDER), message="You %A wrote to a trap\\n"
            )
            await here.gate.publish("nixspam", "list:nixspam", networks("198.51.100.0/24"), message="Listed: %A\\n")
            await add_trapped(here.database, [SENDER], here.now, QUIET)
            await here.learn()
            decision = redirected(SENDER, here.gate)
            assert (decision.verdict, decision.lists) == (Verdict.BLACK, ("uatraps", "nixspam", "spamd-greytrap"))
            wire = hold(here)
            wire.send(b"DATA\r\nSubject: x\r\n\r\n.\r\n")
            assert wire.text.endswith(
                f"450-You {SENDER} wrote to a trap\r\n450-Listed: {SENDER}\r\n"
                f"450 Your address {SENDER} has mailed to spamtraps here\r\n"
            )

    run(scene())


@pytest.mark.row("GR-11")
def test_a_member_of_a_list_with_a_message_loses_its_whiteness() -> None:
    async def scene() -> None:
        async with world() as here:
            await add_white(here.database, [SENDER, "192.0.2.9"], here.now, QUIET)
            await here.gate.publish("uatraps", "list:uatraps", networks(SENDER), message="no\n")
            here.clock.move(1)
            await here.scan()
            assert (here.verdict(), here.verdict("192.0.2.9")) == ("black", "pass")
            assert f"{SENDER}: blacklisted, removing from whitelist" in here.journal.texts

    run(scene())


@pytest.mark.row("SYNC-10")
@pytest.mark.parametrize(
    ("wanted", "descriptors", "held"),
    [
        (10_000, 65_536, 10_000),
        (18_100, 20_000, 18_100),
        (19_000, 20_000, 20_000 - SERVED - RESERVE),
        (10_000, 4_096, 4_096 - SERVED - RESERVE),
        (10_000, 1_024, 256),
        (800, 65_536, 800),
    ],
)
def test_the_mail_server_keeps_its_descriptors(wanted: int, descriptors: int, held: int) -> None:
    assert places(wanted, descriptors) == held
