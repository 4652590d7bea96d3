"""The way out by port 25 and the clock, against servers that behave well, badly, or not at all."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.watch import reach
from gatepost.watch.finding import Finding, State
from gatepost.watch.reach import Server
from tests.codec.test_sntp import reply
from tests.support.loop import run
from tests.support.zone import Zone

Play = Callable[[Resolver], AsyncIterator[Finding]]


async def alone(check: Play, records: dict[str, dict[str, list[str]]] | None = None) -> Finding:
    """Run one check against a DNS; return what it found."""
    async with Zone(records or {}) as zone:
        resolver = Resolver([zone.address], clock=SystemClock())
        try:
            (found,) = [finding async for finding in check(resolver)]
        finally:
            await resolver.close()
    return found


@asynccontextmanager
async def greeting(said: bytes) -> AsyncIterator[Server]:
    """Serve a mail server that says one thing."""

    ended: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(asyncio.get_running_loop().create_future())
        with suppress(OSError):
            writer.write(said)
            if said:
                await reader.readline()
            writer.close()
            await writer.wait_closed()
        ended[-1].set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]
        await asyncio.gather(*ended)


@pytest.mark.parametrize(
    ("said", "state", "text"),
    [
        (b"220 mx.far.example ESMTP\r\n", State.OK, "mail gets out"),
        (b"554 5.7.1 go away\r\n", State.WARNING, "does not want to talk to us: 554 5.7.1 go away"),
        (b"", State.WARNING, "no greeting"),
        (b"x" * 100_000, State.WARNING, "no greeting"),
    ],
)
def test_a_mail_server_outside_is_greeted(said: bytes, state: State, text: str) -> None:
    async def play() -> Finding:
        async with greeting(said) as server:
            return await alone(lambda resolver: reach.way_out(resolver, server))

    found = run(play())
    assert (found.state, text in found.text) == (state, True)


def test_a_closed_port_is_a_problem_with_its_remedy() -> None:
    async def play() -> Finding:
        async with greeting(b"") as server:
            pass
        return await alone(lambda resolver: reach.way_out(resolver, server))

    found = run(play())
    assert (found.state, "smarthost" in found.text) == (State.PROBLEM, True)


@pytest.mark.parametrize("check", [reach.way_out, reach.clock])
def test_a_server_without_an_address_says_nothing_about_us(
    check: Callable[[Resolver, Server], AsyncIterator[Finding]],
) -> None:
    found = run(alone(lambda resolver: check(resolver, ("gone.example", 25))))
    assert (found.state, "no address" in found.text) == (State.UNKNOWN, True)


class TimeServer(asyncio.DatagramProtocol):
    """Answers with a time that is `ahead` of ours."""

    def __init__(self, ahead: float, *, stratum: int = 2) -> None:
        self.ahead, self.stratum = ahead, stratum
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)  # in 3.11 it is none by its class

    def datagram_received(self, octets: bytes, source: tuple[str, int]) -> None:
        now = time.time() + self.ahead
        self.transport.sendto(reply(octets, now, now, stratum=self.stratum), source)


def clocked(ahead: float, **others: int) -> Finding:
    async def play() -> Finding:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: TimeServer(ahead, **others), local_addr=("127.0.0.1", 0)
        )
        try:
            port = transport.get_extra_info("sockname")[1]
            records = {"time.example": {"A": ["127.0.0.1"]}}
            return await alone(lambda resolver: reach.clock(resolver, ("time.example", port)), records)
        finally:
            transport.close()

    return run(play())


@pytest.mark.parametrize(
    ("ahead", "state", "text"),
    [
        (0.0, State.OK, "right to"),
        (30.0, State.WARNING, "the clock is 30.0 s behind"),
        (-30.0, State.WARNING, "the clock is 30.0 s ahead"),
        (3600.0, State.PROBLEM, "let chrony or systemd-timesyncd set it"),
    ],
)
def test_the_clock_is_compared(ahead: float, state: State, text: str) -> None:
    found = clocked(ahead)
    assert (found.state, text in found.text) == (state, True)


def test_a_server_that_does_not_know_the_time_is_not_believed() -> None:
    found = clocked(3600.0, stratum=16)
    assert (found.state, "does not know the time" in found.text) == (State.UNKNOWN, True)


def test_a_time_server_that_is_not_there_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TIME_S", 0.2)
    found = run(alone(lambda resolver: reach.clock(resolver, ("127.0.0.1", 9))))
    assert found.state is State.UNKNOWN
