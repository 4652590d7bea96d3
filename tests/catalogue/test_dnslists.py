"""DNS lists over a whole server: black senders meet the tarpit, white ones do not wait, nobody else notices."""

import pytest

from tests.catalogue.server import House, scene, until

LISTED, WHITE, NEITHER = "198.51.100.7", "198.51.100.8", "198.51.100.9"
LISTS = [{"zone": "bl.example", "weight": 2}, {"zone": "wl.example", "weight": -1}]
GATE = {
    "greylist": True,
    "exempt": ["203.0.113.0/24"],
    "stutter": 0,
    "dns": {"lists": LISTS, "black": 2, "white": 1},
}
ENVELOPE = ("MAIL FROM:<a@sender.example>", "RCPT TO:<bob@here.example>")


async def _proven(here: House) -> None:
    """Wait until the lists are known to work."""
    await until(lambda: set(here.worker._dns_lists.states().values()) == {"asked"})


@pytest.mark.row("DNS-08", "DNS-09")
@pytest.mark.parametrize("mode", ["friendly", "spamd"])
def test_lists_decide_about_who_is_in_no_table(mode: str) -> None:
    async def play(here: House) -> None:
        await _proven(here)
        async with here.client(ip=LISTED, hello=False) as client:
            await client.say("HELO x", *ENVELOPE)
            await client.send(b"DATA\r\n.\r\n")
            told = b"450 Your address 198.51.100.7 is listed by bl.example. 100% spam, see https://bl.example/7\r\n"
            assert told in await client.rest()
        async with here.client(ip=WHITE) as client:
            assert await client.say(*ENVELOPE) == ["250 2.1.0", "250 2.1.5"]
        async with here.client(ip=NEITHER, hello=False) as client:
            await client.say("EHLO x")
            said = await client.say(*ENVELOPE)
            assert (said[-1] if mode == "friendly" else (await client.say("DATA"))[-1]).startswith("451")

    scene(play, gate={"mode": mode, **GATE})
