"""First contacts: senders that nobody has seen, each decided, held, told 451 and written to the greylist.

    python benchmarks/contacts.py [--contacts 40000] [--json]       keeps results/contacts.json

One worker's gate on SQLite as `gatepost serve` opens it (every commit synced), in one process and without
sockets: the dialogue is driven through a wire in memory. A third of the senders then come back at once: for these a
row is found and counted up. The clock stops when the last row is committed; rows and commits are counted.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import machine
import uvloop

from gate import CLOCK, SETTINGS, make
from gatepost.base.units import Seconds
from gatepost.db.sqlite import open_database
from gatepost.db.unit import Database, Unit
from gatepost.gate.gate import Gate
from gatepost.gate.sql import COUNT, SCHEMA
from gatepost.gate.tarpit import Held

TARGET: Final = 5_000
OFFER: Final = b"EHLO mail.example\r\nMAIL FROM:<%d@example.net>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n"
WAITING_MAX: Final = 15_000  # below the backlog's limit: nothing is forgotten


class Wire:
    """A wire in memory that forgets what it is told."""

    __slots__ = ("closed", "local_ip", "peer_ip", "session")

    def __init__(self, ip: str) -> None:
        self.peer_ip = ip
        self.local_ip = "192.0.2.25"
        self.closed = False

    def attach(self, session: Held) -> None:
        self.session = session

    def write(self, octets: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close

    def wake_at(self, steady: float) -> None:
        pass

    def start_tls(self, context: object) -> None:
        raise AssertionError("TLS is not offered")


def contact(gate: Gate, number: int) -> None:
    """One sender, from accept to its end."""
    wire = Wire(f"{10 + (number >> 16)}.{number >> 8 & 255}.{number & 255}.1")
    gate.hold(wire, gate.decide(wire.peer_ip, "mx"))
    wire.session.received(OFFER % number)
    assert wire.closed
    wire.session.lost()


async def measure(count: int, folder: Path) -> machine.Figures:
    """Let all of them come; return the figures."""
    database = await open_database(folder / "gate.db", (SCHEMA,), steady=CLOCK.steady)
    gate = make(replace(SETTINGS, stutter=Seconds(0)), database)
    commits = count_commits(database)
    await gate.start()
    running = asyncio.get_running_loop().create_task(gate.run())
    began, used = time.perf_counter(), time.process_time()
    again = count // 3
    for at in (*range(count), *range(again)):
        contact(gate, at)
        if at % 64 == 0:
            await asyncio.sleep(0)
            while gate.counts().waiting > WAITING_MAX:
                await asyncio.sleep(0.002)
    await gate.flush()
    took, spent = time.perf_counter() - began, time.process_time() - used
    rows = (await database.read(COUNT, {}))[0][0]
    forgotten = gate.counts().forgotten
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await database.close()
    every = count + again
    return {
        "contacts": every,
        "contacts_per_s": round(every / took),
        "contacts_per_s_of_cpu": round(every / spent),
        "rows": rows,
        "commits": len(commits),
        "contacts_per_commit": round(every / max(1, len(commits))),
        "forgotten": forgotten,
        "targets_met": {
            f"at least {TARGET} a second": every / took >= TARGET,
            "a row for each sender": rows == count and forgotten == 0,
        },
    }


def count_commits(database: Database) -> list[int]:
    """Return a list that grows by the number of steps with each commit."""
    commits: list[int] = []
    commit = database.commit

    async def counted(unit: Unit) -> object:
        commits.append(len(unit.steps))
        return await commit(unit)

    database.commit = counted  # type: ignore[method-assign,assignment]  # watched, not changed
    return commits


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contacts", type=int, default=40_000)
    parser.add_argument("--json", action="store_true", help="keep the result in results/contacts.json")
    options = parser.parse_args()
    where = machine.described()
    sys.setswitchinterval(0.0005)  # as workers have it
    with tempfile.TemporaryDirectory() as folder:
        figures = uvloop.run(measure(options.contacts, Path(folder)))
    print(json.dumps(figures, indent=1))
    if options.json:
        machine.keep("contacts", figures, where)


if __name__ == "__main__":
    main()
