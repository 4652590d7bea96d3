"""The kernel's sets: what a change costs over netlink and by libnftables, and what it costs us to find it out.

    python benchmarks/kernel.py [--count 400000] [--single 100]     root; works in a network namespace of its own

Prints: single adds on a set of COUNT hosts by netlink (us) and by libnftables (ms), the same on a set of networks
(which the kernel copies at each commit), 30,000 and COUNT elements put in (s), and the whole way from a table's
content to the kernel: COUNT prefixes from a feed, a difference of 1,000, and one host by hand beside them.
"""

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from gatepost.aio.libnftables import Libnftables
from gatepost.aio.netlink import Netfilter
from gatepost.base.clock import Instant
from gatepost.codec import nft
from gatepost.gate.decide import LISTED
from gatepost.gate.kernel.mirror import Content, Mirror, Span, base_of
from gatepost.gate.kernel.rules import TABLE, Ports, remove, ruleset, set_name
from gatepost.gate.kernel.settings import KernelSettings
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import address_text
from gatepost.gate.settings import GateSettings

_NEW_NETWORK: Final = 0x40000000  # CLONE_NEWNET
_FIRST: Final = 11 << 24
_NOW: Final = Instant(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=400_000)
    parser.add_argument("--single", type=int, default=50)
    given = parser.parse_args()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        raise SystemExit(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    compiler = Libnftables()
    compiler.run(ruleset(GateSettings(), KernelSettings(), Ports()))
    with Netfilter() as packets:
        for hosts in (True, False):
            _fill(packets, 30_000, hosts)
            _fill(packets, given.count, hosts)
            _singles(packets, compiler, given.single, hosts)
        _clear(packets)
        _ways(packets, given.count)
    compiler.run(remove())


def _fill(packets: Netfilter, count: int, hosts: bool) -> None:
    _clear(packets)
    size = 0 if hosts else 63
    ranges = [nft.Range(_FIRST + at * 512, _FIRST + at * 512 + size) for at in range(count)]
    name = set_name(LISTED, 4, hosts=hosts)
    taken = _time(lambda: packets.apply([*nft.add(TABLE, name, 4, ranges, hosts=hosts)]))
    print(f"{count} {_kind(hosts)} by netlink, one batch: {taken:.2f} s")


def _singles(packets: Netfilter, compiler: Libnftables, count: int, hosts: bool) -> None:
    name = set_name(LISTED, 4, hosts=hosts)
    size = 0 if hosts else 63
    spare = [_FIRST + at * 512 + 256 for at in range(2 * count)]
    single = [_time(partial(_add, packets, name, nft.Range(at, at + size), hosts)) for at in spare[:count]]
    words = "" if hosts else "/26"
    texts = [f"{address_text(4, at)}{words}" for at in spare[count : count + (10 if hosts else 1)]]
    slow = [_time(partial(compiler.run, f"add element inet {TABLE} {name} {{ {text} }}")) for text in texts]
    print(
        f"one of {_kind(hosts)} more: {statistics.median(single) * 1e6:.0f} us by netlink (median of {count}),"
        f" {statistics.median(slow) * 1e3:.1f} ms by libnftables (median of {len(slow)})"
    )


def _add(packets: Netfilter, name: str, one: nft.Range, hosts: bool) -> None:
    packets.apply([*nft.add(TABLE, name, 4, [one], hosts=hosts)])


def _ways(packets: Netfilter, count: int) -> None:
    """The whole way: a feed of `count` prefixes of which nine in ten are hosts."""
    fed = [_FIRST + at * 512 << 8 | (26 if at % 10 == 0 else 32) for at in range(count)]
    other = [_FIRST + at * 512 + 300 << 8 | 32 for at in range(1_000)]
    mirror = Mirror(packets)
    feeds = {"first": Networks.packed(fed, ()), "next": Networks.packed(fed[500:] + other[:500], ())}
    base = base_of([feeds["first"]])
    for text, work in (
        (f"{count} prefixes of a feed, nine hosts to a network, made ready", lambda: base_of([feeds["first"]])),
        ("the same, put in", lambda: mirror.give(LISTED, Content(base=base), _NOW)),
        ("one host by hand beside them", lambda: mirror.give(LISTED, Content([Span(7, 7)], base=base), _NOW)),
        ("500 of them gone, 500 new", lambda: mirror.give(LISTED, Content(base=base_of([feeds["next"]])), _NOW)),
    ):
        print(f"{text}: {_time(work):.4f} s")


def _clear(packets: Netfilter) -> None:
    packets.apply([nft.clear(TABLE, set_name(LISTED, 4, hosts=hosts)) for hosts in (True, False)])


def _kind(hosts: bool) -> str:
    return "hosts" if hosts else "networks"


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
