"""What a held connection costs: memory, the CPU of taking it, the CPU of a tarpit's octet a second.

    python benchmarks/held.py [--connections 10000] [--own]

Callback sessions on one uvloop loop, as the tarpit holds them; the clients are another process. RSS is taken from
/proc/self/smaps_rollup before the first and after the last connection. `--own` also measures the other ways to
accept: uvloop's server with a bare protocol, for comparison.
"""

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

import uvloop

from gatepost.aio.drive import Wire
from gatepost.aio.listen import Limits, Listener
from gatepost.aio.process import EventLines, raise_descriptor_limit

BANNER = b"220 mx.example ESMTP spamd\r\n"


class Held:
    """A session that says one octet a second, like the tarpit."""

    __slots__ = ("at", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.at = 0
        wire.attach(self)
        wire.wake_at(time.monotonic() + 1.0)

    def received(self, octets: bytes) -> None:
        """Take no notice."""

    def lost(self) -> None:
        """Take no notice."""

    def due(self, steady: float) -> None:
        """Say the next octet."""
        self.wire.write(BANNER[self.at : self.at + 1])
        self.at = (self.at + 1) % len(BANNER)
        self.wire.wake_at(steady + 1.0)


class Bare(asyncio.Protocol):
    """The least that uvloop's own server can hold."""

    __slots__ = ("transport",)
    held: "list[Bare]" = []  # noqa: RUF012

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = transport
        Bare.held.append(self)


def memory() -> int:
    """Return the RSS of this process in octets."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))


def clients(port: int, count: int, go: int) -> None:
    """Open `count` connections from many loopback sources when told, and hold them."""
    raise_descriptor_limit()
    os.read(go, 1)
    held = []
    for at in range(count):
        sock = socket.socket()
        sock.bind((f"127.0.{1 + at // 4000}.{1 + at % 250}", 0))
        sock.connect(("127.0.0.1", port))
        held.append(sock)
    signal.pause()


async def measure(name: str, count: int, start: Callable[[socket.socket], Callable[[], int]]) -> None:
    """Take `count` connections and print what they cost."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    held = start(sock)
    await asyncio.sleep(0.1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            clients(sock.getsockname()[1], count, reader)
        finally:
            os._exit(1)
    gc.collect()
    before, cpu, began = memory(), time.process_time(), time.monotonic()
    os.write(writer, b"g")
    while held() < count:
        await asyncio.sleep(0.02)
    took, spent = time.monotonic() - began, time.process_time() - cpu
    await asyncio.sleep(2.5)
    gc.collect()
    after, cpu, began = memory(), time.process_time(), time.monotonic()
    await asyncio.sleep(5)
    idle = (time.process_time() - cpu) / (time.monotonic() - began)
    print(
        f"{name:<8} {count} held: {(after - before) / count:,.0f} octets RSS each; "
        f"accepted {count / took:,.0f}/s, {spent / count * 1e6:.0f} us CPU each; "
        f"then {idle * 100:.1f} % of a core"
    )
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def ours(sock: socket.socket) -> Callable[[], int]:
    """Start a Listener of ours with tarpit sessions."""
    limits = Limits(total=0, per_peer=0, per_peer_minute=0)

    def accept(wire: Wire) -> None:
        Held(wire)

    listener = Listener(sock, accept, limits=limits, name="held", log=EventLines())
    listener.start()
    return lambda: listener.open


def theirs(sock: socket.socket) -> Callable[[], int]:
    """Start uvloop's server with a bare protocol."""
    loop = asyncio.get_running_loop()
    serving = loop.create_task(loop.create_server(Bare, sock=sock))
    serving.add_done_callback(lambda task: task.result())
    return lambda: len(Bare.held)


def main() -> None:
    """Measure in a process of its own each, and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--connections", type=int, default=10_000)
    arguments.add_argument("--own", action="store_true")
    options = arguments.parse_args()
    count = min(options.connections, raise_descriptor_limit() - 200)
    ways = {"gatepost": ours} | ({"uvloop": theirs} if options.own else {})
    for name, start in ways.items():
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            uvloop.run(measure(name, count, start))
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(child, 0)
    print(f"descriptors: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")


if __name__ == "__main__":
    main()
