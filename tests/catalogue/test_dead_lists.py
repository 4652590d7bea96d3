"""DNS lists that do not answer, over a whole server: mail comes in as if there were none, and nobody waits long."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from tests.catalogue.server import HEAD, House, house, until
from tests.gate.test_dnslists import BAD, BLACK, GOOD, NEW, WHITE, zones
from tests.support.loop import run
from tests.support.zone import Fault, Zone

LISTS = [{"zone": "black.example", "weight": 3}, {"zone": "white.example", "weight": -2}]
ASKED = [f"{at}.black.example" for at in ("7.100.51.198", "8.100.51.198", "10.100.51.198")]
ENVELOPE = ("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")
TIMEOUT = 0.3


@asynccontextmanager
async def listed(*, dead: tuple[str, ...] = (), **gate: object) -> AsyncIterator[House]:
    """Run a server whose lists are proven; the `dead` ones answer nothing after that."""
    faults = {asked.replace("black", each): Fault.SILENT for asked in ASKED for each in dead}
    async with Zone(zones(black=BLACK, white=WHITE), faults=faults) as zone:
        dns = {"lists": LISTS, "black": 3, "white": 2, "timeout": TIMEOUT}
        settings: dict[str, Mapping[str, object]] = {
            "resolver": {"servers": [f"127.0.0.1:{zone.address[1]}"]},
            "gate": {"dns": dns, "greylist": True, "exempt": ["203.0.113.0/24"], "stutter": 0, "rates": {}, **gate},
        }
        async with house(settings) as here:
            await until(lambda: set(here.worker._dns_lists.states().values()) == {"asked"})
            yield here


@pytest.mark.row("DNS-09")
@pytest.mark.parametrize("mode", ["friendly", "spamd"])
def test_when_no_list_answers_the_greylist_decides(mode: str) -> None:
    async def story() -> None:
        async with listed(dead=("black", "white"), mode=mode) as here:
            begun = time.monotonic()
            async with here.client(ip=BAD, hello=False) as client:
                assert TIMEOUT <= time.monotonic() - begun < 3.0
                said = await client.say("EHLO x", *ENVELOPE)
                assert (said[-1] if mode == "friendly" else (await client.say("DATA"))[-1]).startswith("451")
            assert here.log.events("dnslists")[-1]["silent"] == "black.example white.example"

    run(story())


@pytest.mark.row("DNS-09")
def test_a_list_that_is_dead_does_not_silence_the_others() -> None:
    async def story() -> None:
        async with listed(dead=("black",)) as here:
            async with here.client(ip=GOOD) as client:
                assert (await client.mail()).startswith("250"), "one list vouches for it, the other says nothing"
            assert len(await here.mails()) == 1
        async with listed(dead=("white",)) as here, here.client(ip=BAD, hello=False) as client:
            await client.say("HELO x", *ENVELOPE, "DATA")
            assert (await client.ask(HEAD + b".\r\n")).startswith(b"450 ")

    run(story())


@pytest.mark.row("DNS-09")
def test_many_who_come_at_once_wait_no_longer_than_one() -> None:
    async def story() -> None:
        async with listed(dead=("black", "white")) as here:
            begun = time.monotonic()

            async def come(at: int) -> None:
                async with here.client(ip=f"198.51.{100 + at}.10") as client:
                    assert await client.say("NOOP") == ["250 2.0.0"]

            async with asyncio.TaskGroup() as group:
                for at in range(100):
                    group.create_task(come(at))
            assert time.monotonic() - begun < 5.0

    run(story())


@pytest.mark.parametrize("mode", ["friendly", "spamd"])
@pytest.mark.parametrize("how", ["end", "reset"])
def test_who_leaves_while_lists_are_asked_takes_no_place(mode: str, how: str) -> None:
    async def story() -> None:
        async with listed(dead=("black", "white"), mode=mode) as here:
            _, writer = await here.connect("mx", ip=NEW)
            if how == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            await until(lambda: here.log.events("dnslists"))
            await until(
                lambda: not any(listener.open for listener in here.worker._listeners if listener.name == "mx")
            )
            await until(lambda: here.worker._gate.counts().held == 0)
            assert here.log.events("session_failed") == []

    run(story())


def test_lists_are_not_asked_about_users() -> None:
    async def story() -> None:
        async with listed(dead=("black", "white")) as here:
            async with here.client("submission", ip=BAD) as client:
                assert await client.say("NOOP") == ["250 2.0.0"]
            assert here.log.events("dnslists") == []

    run(story())
