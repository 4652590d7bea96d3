"""How many questions a second, at what CPU, for the ways a stub resolver could be had.

    python benchmarks/resolve.py [--questions 5000] [--at-once 50] [--rounds 3]

One process answers (its CPU is not counted), this one asks distinct names, so no cache helps; the ways take turns
(A B C A B C). Prints the median of the rounds with the least and the most. aiodns is measured when it is installed.
"""

import argparse
import asyncio
import os
import signal
import socket
import statistics
import struct
import time
from collections.abc import Awaitable, Callable

import dns.asyncresolver
import uvloop

from gatepost.aio.clock import SystemClock
from gatepost.aio.dns import Type, parse_reply, query
from gatepost.aio.resolve import Resolver

ADDRESS = struct.pack("!HHHIH4B", 0xC00C, 1, 1, 300, 4, 192, 0, 2, 1)


def answer(server: socket.socket) -> None:
    """Answer every question with one address, for ever."""
    while True:
        question, source = server.recvfrom(4096)
        end = question.index(b"\0", 12) + 5
        head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        server.sendto(head + question[12:end] + ADDRESS, source)


Ask = Callable[[str], Awaitable[object]]


def ways(port: int) -> dict[str, Callable[[], Ask]]:
    """Return what makes the asking function of each way, on the running loop."""

    def ours() -> Ask:
        return Resolver([("127.0.0.1", port)], clock=SystemClock()).a

    def dnspython() -> Ask:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], port
        return lambda name: resolver.resolve(name + ".", "A")

    found: dict[str, Callable[[], Ask]] = {"gatepost": ours, "dnspython": dnspython}
    try:
        import aiodns  # type: ignore[import-not-found]  # not a dependency: measured when it is there
    except ImportError:
        return found

    def cares() -> Ask:
        resolver = aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=port, rotate=False)

        async def ask(name: str) -> object:
            return await resolver.query_dns(name, "A")

        return ask

    return found | {"aiodns": cares}


async def ask_all(ask: Ask, names: list[str], at_once: int) -> None:
    """Ask for `names`, `at_once` in flight."""
    left = iter(names)

    async def asker() -> None:
        for name in left:
            await ask(name)

    await asyncio.gather(*(asker() for _ in range(at_once)))


async def measure(make: Callable[[], Ask], names: list[str], at_once: int) -> tuple[float, float]:
    """Return (questions a second, CPU in microseconds a question)."""
    ask = make()
    await ask("warm.example")
    cpu, start = time.process_time(), time.perf_counter()
    await ask_all(ask, names, at_once)
    return len(names) / (time.perf_counter() - start), (time.process_time() - cpu) / len(names) * 1e6


def parsing(count: int = 20_000) -> tuple[float, float]:
    """Return microseconds to read one answer: ours, dnspython's."""
    question = query(7, "mx1.example.org", Type.A)
    end = question.index(b"\0", 12) + 5
    octets = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + question[12:end] + ADDRESS
    start = time.perf_counter()
    for _ in range(count):
        parse_reply(octets, 7, "mx1.example.org", Type.A)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(count // 10):
        dns.message.from_wire(octets)
    return ours / count * 1e6, (time.perf_counter() - start) / (count // 10) * 1e6


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--questions", type=int, default=5000)
    arguments.add_argument("--at-once", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        answer(server)
    try:
        makers = ways(server.getsockname()[1])
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in makers}
        for turn in range(options.rounds):
            for name, make in makers.items():
                names = [f"n{turn}-{at}.{name}.example" for at in range(options.questions)]
                results[name].append(uvloop.run(measure(make, names, options.at_once)))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print(f"{'way':<10} {'questions/s (least-most)':>28} {'CPU us each (least-most)':>28}")
    for name, figures in results.items():
        rates, costs = [rate for rate, _ in figures], [cost for _, cost in figures]
        print(
            f"{name:<10} {statistics.median(rates):>10.0f} ({min(rates):.0f}-{max(rates):.0f})"
            f" {statistics.median(costs):>12.0f} ({min(costs):.0f}-{max(costs):.0f})"
        )
    ours, theirs = parsing()
    print(f"reading one answer: ours {ours:.1f} us, dnspython {theirs:.1f} us")


if __name__ == "__main__":
    main()
