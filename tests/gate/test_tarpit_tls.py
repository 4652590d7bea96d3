"""STARTTLS in the tarpit, over real sockets: hands are shaken within the held session."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gatepost.aio.drive import Wire, connect
from gatepost.aio.listen import Limits, Listener
from gatepost.aio.tls import Pair, TlsHolder, client_context, self_signed, write_pair
from gatepost.base.clock import Instant
from gatepost.codec.spamd.dialogue import Body, Dialogue, Header, Offer
from gatepost.gate.tarpit import Held
from tests.gate.world import Journal
from tests.support.loop import run

DATE = "Wed Jun  3 21:49:08 2015"
NOW = Instant(int(datetime(2026, 11, 23, tzinfo=UTC).timestamp()) * 1_000_000)
OFFER = b"250-mx.example.org\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n"
GO_AHEAD = b"220 glad you want to burn more CPU cycles on your spam\r\n"


@dataclass
class House:
    """What a session asks, and what it told."""

    offers: list[Offer] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def steady(self) -> float:
        return time.monotonic()

    def soon(self, delay: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay, call)

    def nearly_full(self) -> bool:
        return False

    def offered(self, session: Held, offer: Offer) -> None:
        self.offers.append(offer)

    def overheard(self, session: Held, event: Header | Body) -> None:
        pass

    def too_early(self, session: Held) -> None:
        pass

    def left(self, session: Held) -> None:
        self.gone.set()


@asynccontextmanager
async def tarpit(folder: Path, *, stutter: float = 0.0) -> AsyncIterator[tuple[House, int]]:
    """A listener whose clients are all grey, with a certificate of its own; gives its port."""
    pair = Pair(folder / "certificate.pem", folder / "key.pem")
    write_pair(pair, *self_signed(("mx.example.org",), NOW))
    holder, house = TlsHolder((pair,), NOW), House()

    def accept(wire: Wire) -> None:
        session = Held(
            wire,
            Dialogue("mx.example.org", ip=wire.peer_ip, starttls=True),
            house,
            ip=wire.peer_ip,
            sender=wire.peer_ip,
            dialled=wire.local_ip,
            lists=(),
            stutter=stutter,
            grey_stutter=90.0,
            timeout=20.0,
            tls=holder,
        )
        wire.attach(session)
        session.begin(session.banner(DATE, "spamd"))

    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = Listener(sock, accept, limits=Limits(), name="spamd", log=Journal())
        listener.start()
        try:
            yield house, sock.getsockname()[1]
        finally:
            await listener.drain(0)


class Client:
    """A client that reads until it has seen what it waits for."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def until(self, ending: bytes) -> bytes:
        """Return what comes up to `ending`; less where the connection ends before."""
        came = b""
        while not came.endswith(ending) and (octets := await self.wire.read()):
            came += octets
        return came

    async def rest(self) -> bytes:
        """Return all that still comes."""
        came = b""
        while octets := await self.wire.read():
            came += octets
        return came


@asynccontextmanager
async def offered(port: int) -> AsyncIterator[Client]:
    """A client that was offered TLS."""
    wire = await connect("127.0.0.1", port, timeout=5)
    client = Client(wire)
    try:
        assert (await client.until(b"\n")).startswith(b"220 mx.example.org ESMTP spamd; ")
        wire.write(b"EHLO client.example\r\n")
        assert await client.until(b"250 STARTTLS\r\n") == OFFER
        yield client
    finally:
        wire.abort()


@pytest.mark.row("GR-07")
def test_a_grey_client_shakes_hands_and_says_ehlo_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asyncio.timeout(20), tarpit(tmp_path) as (house, port), offered(port) as client:
            client.wire.write(b"STARTTLS\r\n")
            assert await client.until(b"\n") == GO_AHEAD
            await client.wire.start_tls_client(client_context(verify=False), "mx.example.org", 5)
            shown = ssl.PEM_cert_to_DER_cert((tmp_path / "certificate.pem").read_text())
            assert client.wire.peer_chain()[0] == shown
            client.wire.write(b"STARTTLS\r\nEHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n")
            said = (await client.rest()).split(b"\r\n")
            assert [line[:4] for line in said[:-1]] == [b"500 ", b"250 ", b"250 ", b"250 ", b"451 "]
            client.wire.close()
            await house.gone.wait()
            assert house.offers == [Offer(b"client.example", b"<a@b>", b"<c@d>")]

    run(scene())


@pytest.mark.row("GR-07")
def test_in_tls_a_whole_piece_is_said_after_its_delay(tmp_path: Path) -> None:
    async def scene() -> None:
        async with (
            asyncio.timeout(20),
            tarpit(tmp_path, stutter=0.004) as (_, port),
            offered(port) as client,
        ):
            client.wire.write(b"STARTTLS\r\n")
            assert await client.until(b"\n") == GO_AHEAD
            await client.wire.start_tls_client(client_context(verify=False), "mx.example.org", 5)
            began = time.monotonic()
            client.wire.write(b"NOOP\r\n" * 5 + b"QUIT\r\n")
            said = await client.rest()
            assert said == b"250 2.0.0 OK I did nothing\r\n" * 5 + b"221 mx.example.org\r\n"
            assert 6 * 0.004 <= time.monotonic() - began < len(said) * 0.004

    run(scene())


@pytest.mark.row("GR-07")
@pytest.mark.parametrize("behind", [b"EHLO evil.example\r\n", b"\x16\x03\x01"])
def test_what_came_behind_starttls_in_plain_text_ends_the_session(tmp_path: Path, behind: bytes) -> None:
    async def scene() -> None:
        async with asyncio.timeout(20), tarpit(tmp_path) as (house, port), offered(port) as client:
            client.wire.write(b"STARTTLS\r\n" + behind)
            assert await client.rest() in (b"", GO_AHEAD)
            await house.gone.wait()
            assert house.offers == []

    run(scene())


@pytest.mark.row("GR-07")
def test_who_cannot_shake_hands_is_closed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with asyncio.timeout(20), tarpit(tmp_path) as (house, port), offered(port) as client:
            client.wire.write(b"STARTTLS\r\n")
            assert await client.until(b"\n") == GO_AHEAD
            client.wire.write(b"EHLO client.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n")
            assert b"250" not in await client.rest()
            client.wire.close()
            await house.gone.wait()
            assert house.offers == []

    run(scene())
