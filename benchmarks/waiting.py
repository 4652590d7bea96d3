"""A queue of a million mails: the memory of a worker, the time to find what is due next, the time to a page.


    python benchmarks/waiting.py --mails 1000000             all due some time in the next four days
    python benchmarks/waiting.py --mails 1000000 --due       all due now, for a next hop that never answers

The rows are written straight into the database of a stopped server, in the form that the server itself writes; then
it is started, and mails for a live next hop go through beside them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import apsw
from accept import pss
from sink import Sink

from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.envelope import Envelope, Recipient
from gatepost.base.ids import MailId
from gatepost.policy.action import RelayTls, Route, RouteKind, ToRelay
from gatepost.queue import submit_steps
from gatepost.queue.sql import DUE_LANES, LEASE, LEASE_ALL, LIST, NEXT_DUE
from relay import DEAD, SINK, Gatepost, one_by_one

PAGE = 10_000


def fill(path: Path, mails: int, *, due: bool) -> None:
    """Write so many mails, each with one recipient, into a database."""
    database = apsw.Connection(str(path))
    now = Instant(time.time_ns() // 1000)
    route = Route(RouteKind.HOST, "127.0.0.1", DEAD, RelayTls.NONE)
    first = now - (mails << 10)
    with database:
        database.execute(
            "INSERT INTO body (id, digest, size, form, content) VALUES (?, ?, 4, 0, ?)", (first, b"", b"")
        )
        database.execute("INSERT INTO body_use (id, uses) VALUES (?, ?)", (first, mails))
    for start in range(0, mails, PAGE):
        with database:
            for number in range(start, min(mails, start + PAGE)):
                mail = MailId(first + number)
                to = Recipient(Address(f"user{number}", "dead.example"))
                envelope = Envelope(mail, now, Address("ann", "home.example"), (to,))
                one, two = submit_steps(envelope, MailId(first), (ToRelay(to.address, route),), now)
                when = now if due else Instant(now + 3_600_000_000 + number * 345_600_000_000 // mails)
                database.execute(one.statement.sql, dict(one.params))
                database.execute(two.statement.sql, dict(two.params) | {"due": when})
        print(f"\r{start + PAGE:,} of {mails:,}", end="", file=sys.stderr)
    database.close()
    print(file=sys.stderr)


def asked(path: Path) -> dict[str, object]:
    """Return how the queue's queries are planned and how long they take in microseconds, the LEASE only planned."""
    database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    now = time.time_ns() // 1000
    params = {
        "now": now,
        "most": 100,
        "lane": f"smtp://127.0.0.1:{DEAD}",
        "owner": 1,
        "until": now,
        "mail": 0,
        "position": 0,
    }
    found: dict[str, object] = {}
    for statement in (NEXT_DUE, DUE_LANES, LIST, LEASE, LEASE_ALL):
        plan = [row[3] for row in database.execute("EXPLAIN QUERY PLAN " + statement.sql, params)]
        times = []
        for _ in range(50 if statement not in (LEASE, LEASE_ALL) else 0):
            began = time.perf_counter()
            list(database.execute(statement.sql, params))
            times.append((time.perf_counter() - began) * 1e6)
        found[statement.name] = {"plan": plan, "us": round(statistics.median(times)) if times else None}
    return found


def main() -> None:
    """Fill, start, look."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mails", type=int, default=1_000_000)
    parser.add_argument("--due", action="store_true")
    options = parser.parse_args()
    sink, dead = Sink(SINK), Sink(DEAD, dead=True)
    server = Gatepost(1)
    try:
        quiet = one_by_one(server, sink, 200)
        server.halt()
        path = server.folder / "data" / "mail.db"
        began = time.perf_counter()
        fill(path, options.mails, due=options.due)
        filled = time.perf_counter() - began
        queries = asked(path)
        began = time.perf_counter()
        server.begin()
        started = time.perf_counter() - began
        most = []
        for _ in range(20):
            time.sleep(0.5)
            most.append(max(pss([pid]) for pid in server.pids()))
        beside = one_by_one(server, sink, 200)
        words = [sys.executable, "-m", "gatepost", "queue", "list", "-c", str(server.config), "--json"]
        began = time.perf_counter()
        page = subprocess.run(words, capture_output=True, check=True, text=True).stdout
        listed = time.perf_counter() - began
    finally:
        server.stop()
        sink.stop()
        dead.stop()
    figures = {
        "mails": options.mails,
        "due": options.due,
        "fill_s": round(filled, 1),
        "start_s": round(started, 2),
        "worker_pss_mb": max(most),
        "queries": queries,
        "list_s": round(listed, 2),
        "listed": len(json.loads(page)),
        "alone": quiet,
        "beside": beside,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
