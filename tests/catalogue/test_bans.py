"""Bans over a whole server: what fails by three protocols is counted at one place, and closes every port."""

from dataclasses import replace

import pytest

from gatepost.gate import verbs
from gatepost.gate.bans import Ban, BanSettings, Doorkeeper
from gatepost.gate.prefix import Prefix
from tests.catalogue.server import Client, House, scene, until
from tests.catalogue.test_auth import STRANGER, log_in

EACH = 2
PORTS = ("submissions", "imaps", "pop3s")


class Gate:
    """What the doorkeeper needs of the gate."""

    def __init__(self) -> None:
        self.banned: list[Ban] = []

    def shields(self, prefix: Prefix) -> bool:
        """Shield nobody."""
        return False

    def ban(self, ban: Ban) -> None:
        """Note it."""
        self.banned.append(ban)


async def fail(here: House, kind: str, times: int, ip: str) -> None:
    """Say wrong passwords."""
    async with here.client(kind, ip=ip) as client:
        for _ in range(times):
            await log_in(client, kind, "bob@here.example", "wrong")


@pytest.mark.row("AUTH-01", "PF-14")
def test_wrong_passwords_of_all_protocols_ban_together() -> None:
    gate = Gate()

    async def play(here: House) -> None:
        here.worker._throttle._failures = Doorkeeper(BanSettings(failures=EACH * len(PORTS)), gate)
        for kind in PORTS:
            assert gate.banned == []
            await fail(here, kind, EACH, STRANGER)
        [ban] = gate.banned
        assert (ban.prefix.text, ban.table) == (STRANGER, "bruteforce")
        await verbs.add_entries(here.databases.gate, ban.table, [ban.prefix.text], here.clock.now())
        number = int.from_bytes(bytes(map(int, STRANGER.split("."))))
        await until(lambda: here.worker._gate.holds("bruteforce", 4, number))
        for kind in ("mx", "submission", "imap", "pop3"):
            reader, writer = await here.connect(kind, ip=STRANGER)
            assert await Client(reader, writer, here.heard, kind).rest() == b""
            writer.close()
        async with here.client("imaps", ip="198.51.100.8") as neighbour:
            assert b"OK" in await log_in(neighbour, "imaps", "bob@here.example", "secret")

    scene(play)


def test_misbehaving_clients_of_port_25_are_told_of_to_who_bans() -> None:
    gate = Gate()

    async def play(here: House) -> None:
        worker = here.worker
        worker._intake = replace(worker._intake, watch=Doorkeeper(BanSettings(failures=3), gate))
        for octets in (b"GET / HTTP/1.1\r\n", b"Subject: x\r\n", b"EHLO x\r\nEHLO y\r\n"):
            assert gate.banned == []
            async with here.client("mx", ip=STRANGER, hello=False) as client:
                await client.send(octets)
                await client.rest()
        assert [ban.prefix.text for ban in gate.banned] == [STRANGER]

    scene(play)
