"""The ruleset: the rules of `gate.decide` as far as addresses and ports decide, in nftables' words.

    prerouting  early     uRPF
                arriving  white -> port 25; listed (in spamd mode unknown too) -> redirected to the gate's port
    input       incoming  established; bruteforce; ICMP; the gate's own port only redirected; what else is blocked
                meter-*   PF's max-src-conn-rate, where the kernel counts too
    output      leaving   what is still said on connections of a banned source is cut off

Each table has four sets, hosts and networks of both families (`mirror` says why), filled over netlink. Tables that
limits fill in the kernel are `bruteforce-made*`. Loading it again keeps the sets' content: only rules are replaced.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.gate.decide import BRUTEFORCE, BYPASS, GREYTRAP, LISTED, NOSPAMD, SPAMD, WHITE
from gatepost.gate.kernel.settings import KernelSettings, Refusal
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import address_text, parse_prefix
from gatepost.gate.settings import GateSettings, Ipv6, Mode, RateSettings

TABLE: Final = "gatepost"
LISTS: Final = "spamd-lists"
"""Members of any of spamd's own lists: met on port 25 alone."""

WHITE_SETS: Final = (BYPASS, NOSPAMD, WHITE)
BLACK_SETS: Final = (LISTED, SPAMD)
TRAP_SETS: Final = (LISTS, GREYTRAP)
SETS: Final = (BRUTEFORCE, *WHITE_SETS, *BLACK_SETS, *TRAP_SETS)
TIMED: Final = frozenset((BRUTEFORCE,))
MADE: Final = "bruteforce-made"
MADE_MAX: Final = 65_535
COUNTED: Final = 0x0100_0000  # the bit of a connection's mark that says it was counted
_SENDER: Final = {4: "ip saddr", 6: "ip6 saddr and ffff:ffff:ffff:ffff::"}  # what counts as one source
_MINUTE: Final = 60


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of our listeners, by what they speak."""

    mx: tuple[int, ...] = (25,)
    submission: tuple[int, ...] = (587, 465)
    rated: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """For each kind of listener that has limits, its ports."""
    others: tuple[int, ...] = ()


def set_name(table: str, version: int, *, hosts: bool) -> str:
    """Return the name of a table's set of hosts or of networks."""
    return f"{table}-{'hosts' if hosts else 'nets'}{version}"


def ruleset(settings: GateSettings, kernel: KernelSettings, ports: Ports) -> str:
    """Return what libnftables loads, in one transaction: the sets as they are, the rules anew."""
    meters = tuple(_meters(settings, ports)) if kernel.limits else ()
    lines = [
        f"table inet {TABLE} {{",
        *_indented(_sets(settings.bans.ban_time, meters)),
        "}",
        f"flush table inet {TABLE}",
        f"table inet {TABLE} {{",
    ]
    for meter in meters:
        lines += _chain(meter.chain, "", meter.rules())
    lines += _chain("early", "type filter hook prerouting priority -150; policy accept;", _early(kernel))
    arriving = _arriving(settings, kernel, ports)
    lines += _chain("arriving", "type nat hook prerouting priority -100; policy accept;", arriving)
    incoming = _incoming(settings, kernel, ports, meters)
    lines += _chain("incoming", "type filter hook input priority 0; policy accept;", incoming)
    lines += _chain("leaving", "type filter hook output priority 0; policy accept;", _leaving())
    return "\n".join((*lines, "}", ""))


def remove() -> str:
    """Return what takes all of it out of the kernel, whether it is there or not."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


# --- sets -----------------------------------------------------------------------------------------------------


def _sets(ban_time: float, meters: Sequence["_Meter"]) -> Iterator[str]:
    for table in SETS:
        timeout = ("timeout",) if table in TIMED else ()
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            hosts = f" flags {','.join(timeout)};" if timeout else ""
            yield f"set {set_name(table, version, hosts=True)} {{ type {kind};{hosts} }}"
            flags = ",".join(("interval", *timeout))
            yield f"set {set_name(table, version, hosts=False)} {{ type {kind}; flags {flags}; }}"
    lasts = f" timeout {ban_time:.0f}s;" if ban_time else ""
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        yield f"set {MADE}{version} {{ type {kind}; size {MADE_MAX}; flags dynamic,timeout;{lasts} }}"
        for meter in meters:
            yield (
                f"set {meter.chain}-rate{version} {{ type {kind}; size {MADE_MAX}; flags dynamic,timeout;"
                f" timeout {max(_MINUTE, 2 * int(meter.rate.within))}s; }}"
            )


# --- chains ---------------------------------------------------------------------------------------------------


def _early(kernel: KernelSettings) -> Iterator[str]:
    yield from _skipped(kernel)
    if kernel.urpf:
        yield "icmpv6 type { nd-neighbor-solicit, nd-router-advert } accept"  # of hosts that have no address yet
        yield _said("fib saddr . iif oif missing counter drop", "block in log quick from urpf-failed")


def _arriving(settings: GateSettings, kernel: KernelSettings, ports: Ports) -> Iterator[str]:
    yield from _skipped(kernel)
    yield from _exempt(settings)
    mx, black = _ports(ports.mx), _ports((*ports.mx, *ports.submission))
    aside = f"redirect to :{kernel.port}"
    if mx:
        yield from _each(mx, WHITE_SETS, "accept", "pass from white tables to smtp")
    if black:
        yield from _each(black, BLACK_SETS, aside, "rdr-to spamd from lists to smtp, submission, smtps")
    if mx:
        yield from _each(mx, TRAP_SETS, aside, "rdr-to spamd from any to smtp, listed")
        for version in _grey(settings):
            yield _said(f"meta nfproto ipv{version} {mx} counter {aside}", "rdr-to spamd from any to smtp")


def _incoming(
    settings: GateSettings, kernel: KernelSettings, ports: Ports, meters: Sequence["_Meter"]
) -> Iterator[str]:
    yield from _skipped(kernel)
    yield from _exempt(settings)
    for meter in meters:
        bit = f"0x{COUNTED:08x}"
        yield (
            f"{_ports(meter.ports)} ct state established ct direction original ct mark and {bit} == 0x0"
            f" ct mark set ct mark or {bit} jump {meter.chain}"
        )
    yield "ct state established,related accept"
    yield "icmpv6 type { nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept"  # or nobody is reached
    refuse = ("tcp", "reject with tcp reset") if kernel.banned is Refusal.RESET else ("", "")
    for match in _banned("saddr"):
        if refuse[0]:
            yield _said(f"meta l4proto tcp {match} counter {refuse[1]}", "block return quick from <bruteforce>")
        yield _said(f"{match} counter drop", "block quick from <bruteforce>")
    yield "icmp type { 0, 3, 4, 8, 11, 30 } accept"  # the article's: ping, errors, traceroute
    yield "meta l4proto ipv6-icmp accept"
    yield _said(
        f"tcp dport {kernel.port} ct status and dnat == 0 reject with tcp reset", "only what was redirected"
    )
    if ports.mx and settings.unlisted_ipv6 is Ipv6.BLOCK:
        mx = _ports(ports.mx)
        yield from _each(mx, WHITE_SETS, "accept", "pass from white tables to smtp")
        yield _said(f"meta nfproto ipv6 {mx} reject with tcp reset", "block inet6 from any to smtp")
    if kernel.block_rest:
        rated = tuple(port for _, each in ports.rated for port in each)
        yield f"{_ports((*ports.mx, *ports.submission, *rated, *ports.others, kernel.port, *kernel.open))} accept"
        if kernel.open_udp:
            yield f"udp dport {{ {', '.join(map(str, sorted(set(kernel.open_udp))))} }} accept"
        yield _said("meta l4proto tcp counter reject with tcp reset", "block return in log on egress")
        yield _said("meta l4proto udp counter reject", "block return in log on egress")
        yield _said("counter drop", "block return in log on egress")


def _leaving() -> Iterator[str]:
    """Our end of a connection that was cut would begin it anew in the kernel's eyes: tell it that it is over."""
    for match in _banned("daddr"):
        yield _said(
            f"{match} ct state new,invalid tcp flags and (syn | rst) == 0x0 reject with tcp reset", "flush global"
        )


@dataclass(frozen=True, slots=True)
class _Meter:
    """PF's max-src-conn-rate of one kind of listener. The kernel's own bans are in a set of theirs: see `helper`.

    It is asked once a connection, when the handshake is complete: spoofed SYNs ban nobody. For max-src-conn there
    is only `ct count`, which counts half-open connections (in Linux 6.18 no others): anybody could fill up a
    victim's count. So how many a source holds is counted by the workers alone.
    """

    chain: str
    ports: tuple[int, ...]
    rate: RateSettings

    def rules(self) -> Iterator[str]:
        for version in (4, 6):
            ban = f"add @{MADE}{version} {{ {_SENDER[version]} }} reject with tcp reset"
            minute = -(-self.rate.count * _MINUTE // max(1, int(self.rate.within)))
            often = f"limit rate over {minute}/minute burst {self.rate.count} packets"
            yield f"update @{self.chain}-rate{version} {{ {_SENDER[version]} {often} }} {ban}"


def _meters(settings: GateSettings, ports: Ports) -> Iterator[_Meter]:
    """Return those limits that put into bruteforce; others are the workers' alone."""
    for kind, numbers in ports.rated:
        rate = settings.rates.get(kind)
        if rate is not None and numbers and rate.overload == BRUTEFORCE and rate.count:
            yield _Meter(f"meter-{kind}", numbers, rate)


# --- words ----------------------------------------------------------------------------------------------------


def _skipped(kernel: KernelSettings) -> Iterator[str]:
    yield _said('iifname "lo" accept', "set skip on lo")
    if kernel.devices:
        names = ", ".join(f'"{name}"' for name in sorted(set(kernel.devices)))
        yield f"iifname != {{ {names} }} accept"


def _exempt(settings: GateSettings) -> Iterator[str]:
    networks = Networks.of(parse_prefix(each) for each in settings.exempt)
    for version, word in ((4, "ip"), (6, "ip6")):
        spans = [_span(version, first, last) for first, last in networks.ranges(version)]
        if spans:
            yield _said(f"{word} saddr {{ {', '.join(spans)} }} accept", "exempt")


def _span(version: int, first: int, last: int) -> str:
    low = address_text(version, first)
    return low if first == last else f"{low}-{address_text(version, last)}"


def _grey(settings: GateSettings) -> tuple[int, ...]:
    """Return the families whose unknown sources are redirected; friendly mode speaks with them on port 25."""
    if settings.mode is not Mode.SPAMD or not settings.greylist:
        return ()
    return (4, 6) if settings.unlisted_ipv6 is Ipv6.GREYLIST else (4,)


def _banned(side: str) -> Iterator[str]:
    for version, word in ((4, "ip"), (6, "ip6")):
        for hosts in (True, False):
            yield f"{word} {side} @{set_name(BRUTEFORCE, version, hosts=hosts)}"
        yield f"{_SENDER[version].replace('saddr', side)} @{MADE}{version}"


def _each(match: str, tables: Iterable[str], verdict: str, comment: str) -> Iterator[str]:
    for table in tables:
        for version, word in ((4, "ip"), (6, "ip6")):
            for hosts in (True, False):
                name = set_name(table, version, hosts=hosts)
                yield _said(f"{match} {word} saddr @{name} counter {verdict}", f"{comment}: {table}")


def _ports(numbers: Iterable[int]) -> str:
    listed = sorted(set(numbers))
    return f"tcp dport {{ {', '.join(map(str, listed))} }}" if listed else ""


def _said(rule: str, comment: str) -> str:
    return f'{rule} comment "{comment}"'


def _chain(name: str, head: str, rules: Iterable[str]) -> list[str]:
    begin = [f"\tchain {name} {{", *([f"\t\t{head}"] if head else [])]
    return [*begin, *(f"\t\t{rule}" for rule in rules), "\t}"]


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"\t{line}" for line in lines]
