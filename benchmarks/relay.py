"""Accept and send on: gatepost against Postfix, in turn, same client, same sink, same mail, synced before the 250.

    python benchmarks/peers.py setup                                   (once, root, Debian 12)
    python benchmarks/relay.py --rounds 3 --mails 3000 --sessions 20   A B A B ...; prints medians and the ratio
    python benchmarks/relay.py --latency 200                           one mail at a time: from the 250 to the sink
    python benchmarks/relay.py --dead 20000                            beside a next hop that never answers

The clock stops when the sink has taken the last mail's dot. `--dead N` first queues N mails for a next hop that
takes connections and is silent; then mails for the live one are compared with those before it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import peers
from accept import cpu, descendants, pss
from sink import Sink

HERE: Final = Path(__file__).parent
PYTHON: Final = sys.executable
SINK, DEAD, SMTP = 12626, 12627, 12625
CONFIG: Final = """\
[server]
hostname = "mx.home.example"
data_dir = "{folder}/data"
workers = {workers}
[listen.mx]
kind = "mx"
address = ["127.0.0.1:{port}"]
[gate]
exempt = ["127.0.0.0/8"]
[policy.actions.out]
do = "relay"
host = "127.0.0.1"
port = {sink}
tls = "none"
[policy.actions.dead]
do = "relay"
host = "127.0.0.1"
port = {dead}
tls = "none"
[[policy.rules]]
match = {{ from = "local", for = "dead.example" }}
action = "dead"
[[policy.rules]]
match = {{ from = "local", for = "any" }}
action = "out"
"""


class Gatepost:
    """A server that sends everything on."""

    name = "gatepost"
    port = SMTP

    def __init__(self, workers: int, settings: str = "") -> None:
        """Start one; `settings` are more lines of its configuration."""
        self._temporary = tempfile.TemporaryDirectory(prefix="gatepost-bench-", dir="/var/tmp")
        self.folder = Path(self._temporary.name)
        self.config = self.folder / "gatepost.toml"
        names = {"folder": self.folder, "workers": workers, "port": SMTP, "sink": SINK, "dead": DEAD}
        self.config.write_text(CONFIG.format(**names) + settings)
        self.begin()

    def begin(self) -> None:
        """Start the server."""
        with (self.folder / "log").open("wb") as log:
            words = [PYTHON, "-m", "gatepost", "serve", "-c", str(self.config)]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        peers._wait(SMTP)

    def pids(self) -> list[int]:
        """Return all server processes."""
        return descendants([self._process.pid])

    def halt(self) -> None:
        """Stop the server; its data stay."""
        self._process.terminate()
        self._process.wait(60)

    def stop(self) -> None:
        """End."""
        self.halt()
        self._temporary.cleanup()


class Postfix:
    """The peer; it must be set up."""

    name = "postfix"
    port = peers.SMTP

    def __init__(self) -> None:
        peers.start_relay(SINK)

    def pids(self) -> list[int]:
        """Return all server processes."""
        return descendants([int((peers.BASE / "postfix.pid").read_text())])

    def stop(self) -> None:
        """End."""
        peers.stop()
        time.sleep(1)


def load(port: int, mails: int, sessions: int, recipient: str = "joe@live.example") -> dict[str, float]:
    """Send a load from 127.0.0.1; return the client's figures."""
    words = ["--port", str(port), "--rcpt", recipient, "--mails", str(mails), "--sources", "1"]
    words += ["--sessions", str(sessions)]
    out = subprocess.run([PYTHON, HERE / "load.py", *words], capture_output=True, check=True, text=True).stdout
    figures: dict[str, float] = json.loads(out)
    return figures


def throughput(server: Gatepost | Postfix, sink: Sink, mails: int, sessions: int) -> dict[str, float]:
    """Send a load and wait until the sink has all of it."""
    before, used = sink.count(), cpu(server.pids())
    began = time.perf_counter()
    figures = load(server.port, mails, sessions)
    ends = time.monotonic() + 300
    while sink.count() < before + mails and time.monotonic() < ends:
        time.sleep(0.01)
    took = time.perf_counter() - began
    return {
        "relayed_per_s": round((sink.count() - before) / took, 1),
        "accepted_per_s": figures["rate"],
        "cpu_ms_a_mail": round((cpu(server.pids()) - used) * 1000 / mails, 2),
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "pss_mb": pss(server.pids()),
    }


def one_by_one(server: Gatepost | Postfix, sink: Sink, mails: int) -> dict[str, float]:
    """Send mails one at a time; return how long each was on its way to the sink after its 250."""
    sink.times()
    words = [PYTHON, HERE / "latency.py", "--port", str(server.port), "--mails", str(mails)]
    accepted = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    taken: dict[int, float] = {}
    ends = time.monotonic() + 30
    while len(taken) < mails and time.monotonic() < ends:
        taken |= sink.times()
        time.sleep(0.05)
    ways = sorted((taken[int(number)] - at) * 1000 for number, at in accepted.items())
    return {
        "mails": len(ways),
        "p50_ms": round(statistics.median(ways), 2),
        "p99_ms": round(ways[int(len(ways) * 0.99) - 1], 2),
    }


def beside_the_dead(server: Gatepost | Postfix, sink: Sink, options: argparse.Namespace) -> dict[str, object]:
    """Compare the way of live mails before and while a dead destination has many."""
    dead = Sink(DEAD, dead=True)
    try:
        before = paced(server, sink, options)
        load(server.port, options.dead, 20, "joe@dead.example")
        time.sleep(5)
        beside = paced(server, sink, options)
    finally:
        dead.stop()
    ratio = {key: round(beside[key] / before[key], 3) for key in ("p50_ms", "p99_ms")}
    return {"before": before, "beside": beside, "dead": options.dead, "ratio": ratio}


def paced(server: Gatepost | Postfix, sink: Sink, options: argparse.Namespace) -> dict[str, float]:
    """Send mails at a steady pace below what the server can do; return their ways from 250 to sink."""
    sink.times()
    words = [PYTHON, HERE / "latency.py", "--port", str(server.port), "--mails", str(options.mails)]
    accepted = json.loads(
        subprocess.run([*words, "--pause", "0.005"], capture_output=True, check=True, text=True).stdout
    )
    taken: dict[int, float] = {}
    ends = time.monotonic() + 60
    while len(taken) < options.mails and time.monotonic() < ends:
        taken |= sink.times()
        time.sleep(0.05)
    ways = sorted((taken[int(number)] - at) * 1000 for number, at in accepted.items() if int(number) in taken)
    return {
        "mails": len(ways),
        "p50_ms": round(statistics.median(ways), 2),
        "p99_ms": round(ways[int(len(ways) * 0.99) - 1], 2),
    }


def main() -> None:
    """Measure in turn; print each round, medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mails", type=int, default=3000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency", type=int, default=0, help="measure one mail at a time instead")
    parser.add_argument("--dead", type=int, default=0, help="measure beside so many mails for a dead next hop")
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    sink = Sink(SINK)
    try:
        for _ in range(options.rounds):
            for make in (lambda: Gatepost(options.workers), Postfix):
                if options.dead and make is Postfix:
                    continue  # it would try the sink for all
                server = make()
                try:
                    throughput(server, sink, 200, options.sessions)  # warm
                    if options.dead:
                        print(
                            json.dumps({"server": server.name, **beside_the_dead(server, sink, options)}),
                            flush=True,
                        )
                        continue
                    if options.latency:
                        row = one_by_one(server, sink, options.latency)
                    else:
                        row = throughput(server, sink, options.mails, options.sessions)
                finally:
                    server.stop()
                rows.setdefault(server.name, []).append(row)
                print(json.dumps({"server": server.name, **row}), flush=True)
    finally:
        sink.stop()
    if not rows:
        return
    medians = {
        name: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for name, found in rows.items()
    }
    print(json.dumps({"medians": medians, "options": vars(options)}, indent=1))
    if not options.latency:
        ratio = medians["gatepost"]["relayed_per_s"] / medians["postfix"]["relayed_per_s"]
        print(json.dumps({"ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
