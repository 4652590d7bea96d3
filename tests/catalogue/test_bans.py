"""Bans over a whole server: what fails by three protocols is counted at one place, and closes every port."""

import pytest

from gatepost.gate.release import release
from tests.catalogue.server import Client, House, scene, until
from tests.catalogue.test_auth import STRANGER, log_in

EACH = 2
PORTS = ("submissions", "imaps", "pop3s")
NUMBER = int.from_bytes(bytes(map(int, STRANGER.split("."))))


async def fail(here: House, kind: str, times: int, ip: str) -> None:
    """Say wrong passwords; the last one may be cut off."""
    async with here.client(kind, ip=ip) as client:
        try:
            for _ in range(times):
                await log_in(client, kind, "bob@here.example", "wrong")
        except (ConnectionError, AssertionError, IndexError):
            assert banned(here)


def banned(here: House) -> bool:
    """Tell whether the stranger is in <bruteforce>."""
    return here.worker._gate.holds("bruteforce", 4, NUMBER)


async def shut_out(here: House) -> None:
    """See that no port speaks with the stranger any more."""
    for kind in ("mx", "submission", "imap", "pop3"):
        reader, writer = await here.connect(kind, ip=STRANGER)
        assert await Client(reader, writer, here.heard, kind).rest() == b""
        writer.close()


@pytest.mark.row("AUTH-01", "PF-14", "PF-10")
def test_wrong_passwords_of_all_protocols_ban_together_and_cut_what_is_open() -> None:
    async def play(here: House) -> None:
        async with here.client("imaps", ip=STRANGER) as reading:
            assert b"OK" in await log_in(reading, "imaps", "bob@here.example", "secret")
            for kind in PORTS:
                assert not banned(here)
                await fail(here, kind, EACH, STRANGER)
            await until(lambda: banned(here))
            with pytest.raises(ConnectionError):
                await reading.command("NOOP")
        await shut_out(here)
        async with here.client("imaps", ip="198.51.100.8") as neighbour:
            assert b"OK" in await log_in(neighbour, "imaps", "bob@here.example", "secret")

    scene(play, gate={"bans": {"failures": EACH * len(PORTS)}})


def test_misbehaving_clients_of_port_25_are_banned_too() -> None:
    async def play(here: House) -> None:
        for octets in (b"GET / HTTP/1.1\r\n", b"Subject: x\r\n", b"EHLO x\r\nEHLO y\r\n"):
            assert not banned(here)
            async with here.client("mx", ip=STRANGER, hello=False) as client:
                try:
                    await client.send(octets)
                    await client.rest()
                except ConnectionError:
                    assert banned(here)
        await until(lambda: banned(here))
        await shut_out(here)

    scene(play, gate={"bans": {"failures": 3}})


@pytest.mark.row("PF-21", "OP-03")
def test_a_ban_ends_by_itself() -> None:
    async def play(here: House) -> None:
        for kind in PORTS:
            await fail(here, kind, EACH, STRANGER)
        await until(lambda: banned(here))
        await here.worker._gate.flush()
        here.clock.move(86_401)
        assert await release(here.databases.gate, ("bruteforce",), 86_400, here.clock.now()) == 1
        await until(lambda: not banned(here))
        async with here.client("imaps", ip=STRANGER) as client:
            assert b"OK" in await log_in(client, "imaps", "bob@here.example", "secret")

    scene(play, gate={"bans": {"failures": EACH * len(PORTS)}})
