"""BGP decoding alone: prefixes from octets to events. `benchmarks/bgp.py [--prefixes N] [--rounds N]`.

Three feeds: hosts of few paths as bgp-spamd sent them (some 800 a message), prefixes of all lengths with three to
each path as in a full table, and what real routers sent in 1999 and 2000 (tests/conformance/bgp). Octets come in
pieces of 64 KB, as from a socket. Figures are CPU seconds of this process. What follows behind the decoder, to the
gate's tables, is measured by bgp_feed.py.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.codec.bgp.messages import (
    KEEPALIVE,
    MP4,
    NEXT_HOP,
    ORIGIN,
    as_path,
    communities,
    opening,
    real_updates,
    update,
    usual_open,
)

from gatepost.codec.bgp.session import Session
from gatepost.codec.bgp.types import Local, Peer, Update

PIECE: Final = 65_536
LOCAL: Final = Local(65500, 1)


def hosts(count: int) -> Iterator[bytes]:
    """Make UPDATEs full of hosts, with one of two paths."""
    dice = random.Random(1)
    good = [
        ORIGIN + as_path(65066, 65043) + NEXT_HOP + communities((65066, 42 if each else 666)) for each in (0, 1)
    ]
    while count:
        many = min(count, 800)
        yield update(dice.choice(good), b"".join(b"\x20" + dice.randbytes(4) for _ in range(many)))
        count -= many


def table(count: int) -> Iterator[bytes]:
    """Make UPDATEs of three prefixes of 8 to 24 bits each, every one with a path of its own."""
    dice = random.Random(1)
    for _ in range(count // 3):
        path = (65066, *(dice.randrange(1, 400_000) for _ in range(4)))
        nlri = b"".join(
            bytes((length,)) + dice.randbytes((length + 7) // 8) for length in dice.choices(range(8, 25), k=3)
        )
        yield update(ORIGIN + as_path(*path) + NEXT_HOP + communities((65066, 42), (65066, 7)), nlri)


def measured(octets: bytes, opened: bytes) -> tuple[float, int]:
    """Decode octets in a session that is up; return the CPU seconds and the prefixes."""
    session = Session(LOCAL, Peer(65066, enforce_first_as=False), 0.0)
    session.receive(opened + KEEPALIVE, 0.0)
    pieces = [octets[at : at + PIECE] for at in range(0, len(octets), PIECE)]
    found = 0
    began = time.process_time()
    for piece in pieces:
        for event in session.receive(piece, 0.0):
            if isinstance(event, Update):
                found += len(event.announced) + len(event.withdrawn)
    return time.process_time() - began, found


def report(title: str, make: Callable[[], Iterator[bytes]], opened: bytes, rounds: int) -> None:
    """Print the median, minimum and maximum of some rounds."""
    octets = b"".join(make())
    results = [measured(octets, opened) for _ in range(rounds)]
    times, count = sorted(each[0] for each in results), results[0][1]
    median = statistics.median(times)
    print(
        f"{title:28} {count:>9,} prefixes {len(octets) / 1e6:6.1f} MB  "
        f"{median:6.3f} s ({times[0]:.3f} to {times[-1]:.3f})  {count / median / 1e6:5.2f} M/s"
    )


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prefixes", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    report("hosts, 800 a message", lambda: hosts(given.prefixes), usual_open(), given.rounds)
    report("full table, 3 a path", lambda: table(given.prefixes), usual_open(), given.rounds)
    report("real routers, 1999 and 2000", real_updates, opening(MP4), given.rounds)


if __name__ == "__main__":
    main()
