"""18,000 tarpitted connections in one worker: what each costs, and what a white sender notices of them.

    python benchmarks/tarpit.py [--connections 18000] [--json]       keeps results/tarpit.json

One worker of `gatepost serve`, spamd mode, one letter a second to every client; how it is measured is told in
held.py. The descriptor limit must leave room for the mail server beside them: 20,000 are enough.
"""

import argparse
import json
import resource
from typing import Final

import machine
from held import PER_SOURCE, hold
from served import Served

from gatepost.aio.process import raise_descriptor_limit

OCTETS: Final = 2_500
SHARE_OF_A_CORE: Final = 0.25
P99_MS: Final = 50.0


def main() -> None:
    """Start a server, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--connections", type=int, default=18_000)
    parser.add_argument("--greetings", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the letters are counted")
    parser.add_argument("--json", action="store_true", help="keep the result in results/tarpit.json")
    options = parser.parse_args()
    where = machine.described()
    limit = raise_descriptor_limit()
    if limit < options.connections + 300:
        parser.error(f"the descriptor limit is {limit}: raise it (ulimit -Hn) or ask for fewer --connections")
    changes = {
        "exempt": "[]",
        "mode": '"spamd"',
        "stutter": '"1s"',
        "grey_stutter": '"90s"',
        "connections": str(options.connections + 100),
        "source_connections": str(PER_SOURCE),
    }
    server = Served(1, changes)
    try:
        figures = hold(server, options)
    finally:
        server.stop()
    figures["descriptor_limit"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    octets, share = figures["rss_octets_each_later"], figures["share_of_a_core"]
    figures["targets_met"] = {
        f"all {options.connections} held": figures["held"] == options.connections,
        "a letter a second each": figures["letters_per_s_each"] > 0.9,
        f"at most {OCTETS} octets RSS each": max(octets, figures["rss_octets_each"]) <= OCTETS,
        f"under {SHARE_OF_A_CORE:.0%} of a core": share < SHARE_OF_A_CORE,
        f"white greeting under {P99_MS:g} ms at p99": figures["white_greeting_beside"]["p99_ms"] < P99_MS,
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        machine.keep("tarpit", figures, where)


if __name__ == "__main__":
    main()
