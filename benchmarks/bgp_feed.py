"""The BGP feed: prefixes received over loopback and in the gate's tables. `bgp_feed.py [--prefixes N] [--json]`.

A route server in another process announces N hosts in random order, two thirds of them black, and withdraws one.
Time runs from the first octet of the first UPDATE to the publication of the last table, and from the withdrawal to
the publication that lacks it. Memory is what this process has more than before the session, at its end and at its
peak. `--rounds` are separate processes.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import socket
import statistics
import struct
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import uvloop
from machine import described, keep

from gatepost.aio.clock import SystemClock
from gatepost.feeds.bgp.connect import Speaker
from gatepost.feeds.bgp.feed import BgpFeed
from gatepost.feeds.bgp.plan import compose
from gatepost.feeds.bgp.settings import BgpSettings, CommunityTableSettings, NeighborSettings
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part

RS_AS, OUR_AS = 65066, 65500
GOOD, BAD = RS_AS << 16 | 42, RS_AS << 16 | 666
MARKER: Final = b"\xff" * 16
ATTRIBUTES_A_PATH: Final = 3  # prefixes of a message / messages of a path
MESSAGE_MAX: Final = 4096


def message(kind: int, body: bytes = b"") -> bytes:
    """Return a BGP message."""
    return MARKER + struct.pack(">HB", 19 + len(body), kind) + body


def opening() -> bytes:
    """Return the route server's OPEN: both families, four-octet AS numbers, graceful restart without a family."""
    capabilities = bytes.fromhex("010400010001010400020001020040020078") + b"\x41\x04" + struct.pack(">I", RS_AS)
    parameters = bytes((2, len(capabilities))) + capabilities
    return message(1, struct.pack(">BHHIB", 4, RS_AS, 90, 0x0A000001, len(parameters)) + parameters)


def updates(prefixes: Sequence[int]) -> bytes:
    """Return the UPDATEs that announce hosts: full messages, another path every third of them."""
    out = []
    at = number = 0
    while at < len(prefixes):
        origin = 64_000 + number // ATTRIBUTES_A_PATH
        path = struct.pack(">BBII", 2, 2, RS_AS, origin)
        community = GOOD if number % 3 == 0 else BAD
        attributes = b"\x40\x01\x01\x00\x40\x02" + bytes((len(path),)) + path + b"\x40\x03\x04\x7f\x00\x00\x01"
        attributes += b"\xc0\x08\x08" + struct.pack(">II", community, RS_AS << 16 | 7)
        room = (MESSAGE_MAX - 19 - 4 - len(attributes)) // 5
        hosts = prefixes[at : at + room]
        nlri = b"".join(b"\x20" + host.to_bytes(4) for host in hosts)
        out.append(message(2, b"\0\0" + struct.pack(">H", len(attributes)) + attributes + nlri))
        at += room
        number += 1
    out.append(message(2, b"\0\0\0\0"))  # End-of-RIB
    return b"".join(out)


def serve(pipe: Connection, count: int) -> None:
    """Be the route server: announce when the session is up, withdraw the last prefix when told."""
    generator = random.Random(7)
    hosts = generator.sample(range(0x14000000, 0x60000000), count)
    octets = updates(hosts)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send(listener.getsockname()[1])
        session, _ = listener.accept()
        with session:
            session.sendall(opening() + message(4))
            seen = b""
            while seen.count(MARKER) < 2:
                seen += session.recv(4096)
            pipe.send(time.monotonic())
            session.sendall(octets)
            pipe.send(time.monotonic())
            pipe.recv()
            pipe.send(time.monotonic())
            session.sendall(message(2, b"\0\x05\x20" + hosts[-1].to_bytes(4) + b"\0\0"))
            with suppress(EOFError):
                pipe.recv()


class Tables:
    """Remembers what was published, and when."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.publications = 0
        self.at = 0.0
        self._changed = asyncio.Event()

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None:
        """Take a table."""
        self.counts[table] = len(networks)
        self.publications += 1
        self.at = time.monotonic()
        self._changed.set()

    async def unpublish(self, table: str, source: str) -> None:
        """Take no table."""

    async def published(self) -> list[Part]:
        """Return nothing."""
        return []

    async def reach(self, count: int) -> float:
        """Wait until all tables together have so many entries; return when that was."""
        while sum(self.counts.values()) != count:
            self._changed.clear()
            await self._changed.wait()
        return self.at


class Silent:
    """A log that says only what went wrong."""

    def _nothing(self, event: str, **fields: object) -> None:
        pass

    def _say(self, event: str, **fields: object) -> None:
        sys.stderr.write(f"{event} {fields}\n")

    debug = info = _nothing
    warning = error = exception = _say


def rss() -> int:
    """Return this process's resident octets."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def measure(port: int, pipe: Connection, count: int) -> dict[str, float]:
    """Run the feed against the route server once."""
    tables = Tables()
    settings = BgpSettings(
        neighbors=(NeighborSettings("127.0.0.1", RS_AS, port=port, multihop=2, enforce_neighbor_as=True),),
        asn=OUR_AS,
        tables=(
            CommunityTableSettings("bgp_spamd_bypass", community="65066:42"),
            CommunityTableSettings("bgp_spamd", community="65066:666"),
        ),
    )
    plan = compose(settings, ())
    clock, log = SystemClock(), Silent()
    before, ticks = rss(), time.process_time()
    feed = BgpFeed(plan, tables, Speaker(clock=clock, log=log).link, clock=clock, log=log)
    task = asyncio.get_running_loop().create_task(feed.run())
    done = await tables.reach(count)
    began, sent = await asyncio.to_thread(lambda: (pipe.recv(), pipe.recv()))
    cpu = time.process_time() - ticks
    after = rss()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    publications = tables.publications
    pipe.send("withdraw")
    gone = await tables.reach(count - 1)
    withdrawn = await asyncio.to_thread(pipe.recv)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return {
        "seconds": round(done - began, 3),
        "seconds_after_last_octet": round(done - sent, 3),
        "cpu_seconds": round(cpu, 3),
        "memory_mb": round((after - before) / 1e6, 1),
        "peak_mb": round((peak - before) / 1e6, 1),
        "publications": publications,
        "withdraw_seconds": round(gone - withdrawn, 3),
    }


def once(count: int, answers: Connection) -> None:
    """Measure in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, count))
    server.start()
    try:
        port = ours.recv()
        answers.send(uvloop.run(measure(port, ours, count)))
    finally:
        server.kill()
        server.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--prefixes", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    machine = described()
    rounds: list[dict[str, float]] = []
    for _ in range(given.rounds):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=once, args=(given.prefixes, theirs))
        process.start()
        rounds.append(ours.recv())
        process.join()
        print(json.dumps(rounds[-1]))
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    print(f"{given.prefixes} prefixes, median of {given.rounds}: {json.dumps(medians)}")
    if given.json:
        keep("bgp_feed", {"prefixes": given.prefixes, "median": medians, "rounds": rounds}, machine)


if __name__ == "__main__":
    main()
