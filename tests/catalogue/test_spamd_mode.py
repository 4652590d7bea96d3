"""spamd mode over a whole server: TLS in the tarpit, and the log of connections that spamlogd read."""

from pathlib import Path

import pytest

from gatepost.gate.verbs import add_entries
from tests.catalogue.server import House, scene, until

STRANGER, FRIEND, LISTED = "198.51.100.7", "198.51.100.8", "198.51.100.9"
GATE = {"mode": "spamd", "exempt": ["203.0.113.0/24"], "stutter": 0, "greylist": True}


@pytest.mark.row("GR-07")
def test_a_grey_client_may_speak_tls_and_a_black_one_may_not() -> None:
    async def play(here: House) -> None:
        async with here.client(ip=STRANGER, hello=False) as client:
            offered = await client.ask(b"EHLO x\r\n")
            assert offered.endswith(b"250 STARTTLS\r\n")
            assert (await client.ask(b"STARTTLS\r\n")).startswith(b"220 glad you want to burn more CPU cycles")
            await client.shake()
            await client.ask(b"EHLO x\r\n")
            told = [await client.ask(b"MAIL FROM:<a@b>\r\n"), await client.ask(b"RCPT TO:<bob@here.example>\r\n")]
            assert [each[:3] for each in told] == [b"250", b"250"]
            assert (await client.ask(b"DATA\r\n")).startswith(b"451 Temporary failure")
        await here.worker._gate.flush()
        assert len(await here.rows("SELECT key FROM grey", gate=True)) == 1
        await add_entries(here.databases.gate, "spamd", [LISTED], here.clock.now())
        await until(lambda: here.worker._gate.decide(LISTED, "mx").verdict.value == "black")
        async with here.client(ip=LISTED, hello=False) as client:
            assert b"STARTTLS" not in await client.ask(b"EHLO x\r\n")

    scene(play, gate={**GATE, "starttls": True})


@pytest.mark.row("PF-11", "PF-15", "PF-24", "LG-01", "LG-02", "LG-03")
def test_known_senders_and_our_own_connections_are_logged_apart_and_strangers_are_not(tmp_path: Path) -> None:
    channel = tmp_path / "pflog1"

    async def play(here: House) -> None:
        gate = here.worker._gate
        await add_entries(here.databases.gate, "nospamd", [FRIEND], here.clock.now())
        await until(lambda: gate.decide(FRIEND, "mx").verdict.value == "pass")
        async with here.client(ip=FRIEND) as client:
            assert (await client.say("MAIL FROM:<a@b.example>"))[0].startswith("250")
        async with here.client(ip=STRANGER, hello=False) as client:
            await client.say("HELO x")
        gate.contacted("192.0.2.99")
        await gate.flush()
        lines = channel.read_text().splitlines()
        assert [line.split(" ", 1)[1].split(":")[0] for line in lines] == [
            "in  pass from white tables to smtp",
            "out pass out to any port smtp",
        ]
        assert f"{FRIEND} > 127.0.0.1 port " in lines[0]
        await gate.scan(here.clock.now())
        hosts = {ip for (ip,) in await here.rows("SELECT ip FROM grey WHERE kind = 1", gate=True)}
        assert hosts == {FRIEND, "192.0.2.99"}

    scene(play, gate={**GATE, "connection_log": str(channel)})
