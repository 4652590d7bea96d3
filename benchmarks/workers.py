"""Does a second worker pay? The rate of accepted mail with one and two workers, on a slow disk and on this one.

    python benchmarks/workers.py --rounds 3 --json       1 2 1 2 ... on each disk; keeps results/workers.json

The slow disk is slowsync.c: every fsync and fdatasync of the server takes 7 ms longer. A mail counts when it is
answered 250, which is after its commit was synced. Where the client's CPU is near one core, or client and server
together near all cores, the figure is the client's or the machine's, not the server's: both are printed beside it.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import machine
from accept import PYTHON, cpu
from served import Served

HERE: Final = Path(__file__).parent
CLIENT_BUSY: Final = 0.9
"""Share of one core above which the client is called the limit."""


def compile_slowsync(folder: Path) -> Path:
    """Compile the shim; raises CalledProcessError, FileNotFoundError without a compiler."""
    library = folder / "slowsync.so"
    words = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / "slowsync.c"), "-ldl"]
    subprocess.run(words, check=True)
    return library


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def load(server: Served, mails: int, options: argparse.Namespace) -> dict[str, float]:
    """Send mails; return the client's figures."""
    words = ["--port", str(server.port), "--rcpt", ",".join(user for user, _ in server.users)]
    words += ["--mails", str(mails), "--sessions", str(options.sessions), "--sources", str(options.sources)]
    done = subprocess.run([PYTHON, HERE / "load.py", *words], capture_output=True, check=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(workers: int, options: argparse.Namespace) -> dict[str, float]:
    """Start a server, warm it, load it; return rate, latency and who was busy."""
    server = Served(workers, {"exempt": '["127.0.0.0/8"]'})
    try:
        load(server, 500, options)
        time.sleep(1)
        before = cpu(server.pids())
        found = load(server, options.mails, options)
        spent = cpu(server.pids()) - before
    finally:
        server.stop()
    took = found["mails"] / found["rate"]
    return {
        "accepted_per_s": found["rate"],
        "failed": found["failed"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "client_cores": round(found["client_cpu_s"] / took, 2),
        "server_cores": round(spent / took, 2),
        "server_cpu_ms_a_mail": round(spent * 1000 / found["mails"], 3),
    }


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure, and the rate's ends."""
    found = {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}
    rates = [row["accepted_per_s"] for row in rows]
    return found | {"accepted_per_s_min": min(rates), "accepted_per_s_max": max(rates)}


def main() -> None:
    """Measure all four in turn, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=6000)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--sources", type=int, default=64)
    parser.add_argument("--slow-ms", default="7")
    parser.add_argument("--json", action="store_true", help="keep the result in results/workers.json")
    options = parser.parse_args()
    where = machine.described()
    rows: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="gatepost-slowsync-") as folder:
        library = compile_slowsync(Path(folder))
        slow = {"LD_PRELOAD": str(library), "SLOWSYNC_MS": options.slow_ms}
        for _ in range(options.rounds):
            for disk, values in (("slow", slow), ("fast", {})):
                for workers in (1, 2):
                    with environment(**values):
                        row = measure(workers, options)
                    rows.setdefault(f"{disk}, {workers} worker{'s' * (workers > 1)}", []).append(row)
                    print(json.dumps({"disk": disk, "workers": workers, **row}), flush=True)
    found = {name: medians(each) for name, each in rows.items()}
    ratio = {
        disk: round(found[f"{disk}, 2 workers"]["accepted_per_s"] / found[f"{disk}, 1 worker"]["accepted_per_s"], 2)
        for disk in ("slow", "fast")
    }
    fast = found["fast, 2 workers"]
    figures = {
        "medians": found,
        "ratio_of_two_to_one": ratio,
        "fast_limit": {
            "client": fast["client_cores"] > CLIENT_BUSY,
            "machine": fast["client_cores"] + fast["server_cores"] > 0.9 * (os.cpu_count() or 1),
        },
        "options": vars(options),
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        machine.keep("workers", figures, where)


if __name__ == "__main__":
    sys.exit(main())
