"""What the tests of aio share: a listener on loopback, plain clients, a certificate."""

import asyncio
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gatepost.aio.clock import SystemClock
from gatepost.aio.listen import Accept, Limits, Listener
from gatepost.aio.tls import Pair, TlsHolder, self_signed, write_pair

FREE = Limits(total=0, per_peer=0, per_peer_minute=0)


class Journal:
    """A log that remembers its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def _tell(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    debug = info = warning = error = exception = _tell


@functools.cache
def _pem(names: tuple[str, ...]) -> tuple[bytes, bytes]:
    return self_signed(names, SystemClock().now())


def pair_in(folder: Path, *names: str) -> Pair:
    """Write a fresh certificate for `names` and return its files."""
    pair = Pair(folder / f"{names[0]}.pem", folder / f"{names[0]}.key")
    write_pair(pair, *_pem(names))
    return pair


def holder_in(folder: Path, *names: str) -> TlsHolder:
    """Return a holder of one fresh certificate."""
    return TlsHolder([pair_in(folder, *names)], SystemClock().now())


def bound() -> socket.socket:
    """Return a socket that listens on a free loopback port."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(512)
    return sock


@asynccontextmanager
async def listening(
    accept: Accept,
    *,
    limits: Limits = FREE,
    tls: TlsHolder | None = None,
    busy: bytes = b"",
    sock: socket.socket | None = None,
    journal: Journal | None = None,
) -> AsyncIterator[tuple[Listener, int]]:
    """Run a listener; gives it and its port."""
    sock = sock or bound()
    listener = Listener(sock, accept, limits=limits, name="test", log=journal or Journal(), tls=tls, busy=busy)
    listener.start()
    try:
        yield listener, sock.getsockname()[1]
    finally:
        await listener.drain(0)
        sock.close()


def trusting() -> ssl.SSLContext:
    """Return a client context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def until(condition: Callable[[], object], *, within: float = 5.0) -> None:
    """Wait until a callable tells yes."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)
