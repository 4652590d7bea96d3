"""What a feed is to do: its settings and its bgpd.conf put together, and checked."""

import itertools
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from gatepost.base.units import Seconds
from gatepost.feeds.bgp import conf as bgpd_conf
from gatepost.feeds.bgp.filter import ONLY_MATCHES, Action, Group, Peers, Rule, Source, Who, only_matches
from gatepost.feeds.bgp.rib import Admission
from gatepost.feeds.bgp.rules import read_community, read_large_community
from gatepost.feeds.bgp.settings import PRIVATE_AS, BgpSettings, CommunityTableSettings, NeighborSettings
from gatepost.gate.prefix import Prefix, address_text, number_of, parse_prefix

HOLDTIME: Final = Seconds(90)
_LOCAL4: Final = Path("/proc/net/fib_trie")
_LOCAL6: Final = Path("/proc/net/if_inet6")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a feed needs. `messages`: what the members of a table are told, by table."""

    asn: int
    router_id: str
    holdtime: Seconds
    holdtime_min: Seconds
    listen: tuple[str, ...]
    neighbors: tuple[NeighborSettings, ...]
    rules: tuple[Rule, ...]
    remarks: tuple[str, ...]
    messages: Mapping[str, str]
    hold_on_loss: Seconds
    stale_time: Seconds
    admission: Admission

    def warnings(self) -> list[str]:
        """Return what an operator should know of it, a line each."""
        lines = list(self.remarks)
        if only_matches(self.rules):
            lines.append(ONLY_MATCHES)
        if self.neighbors and not self.rules:
            lines.append("no rule gives a community its table: nothing will be listed")
        return lines

    def who(self, neighbor: NeighborSettings) -> Who:
        """Return a neighbour as rules ask for it."""
        return Who(neighbor.address, neighbor.remote_as, self.asn, neighbor.group)


def compose(settings: BgpSettings, own: Iterable[Prefix]) -> Plan:
    """Read the bgpd.conf that the settings name and add what they say; `own` are this machine's addresses.

    Blocks on the file. Raises BgpdConfError, or ValueError for settings that do not fit together.
    """
    conf = bgpd_conf.read(Path(settings.conf)) if settings.conf else bgpd_conf.BgpdConf()
    own = tuple(own)
    asn = settings.asn or conf.asn or PRIVATE_AS
    neighbors = {each.address: each for each in (*conf.neighbors, *settings.neighbors)}
    filters = (
        bgpd_conf.parse_filter(text, Path("feeds.bgp.filters"), f"feeds.bgp.filters.{at}")
        for at, text in enumerate(settings.filters)
    )
    tables = (_rule_of(each, at) for at, each in enumerate(settings.tables))
    return Plan(
        asn=asn,
        router_id=settings.router_id or conf.router_id or _router_id(own),
        holdtime=_first(settings.holdtime, conf.holdtime, HOLDTIME),
        holdtime_min=conf.holdtime_min or settings.holdtime_min,
        listen=(*conf.listen, *settings.listen),
        neighbors=tuple(neighbors.values()),
        rules=(*conf.rules, *tables, *filters),
        remarks=tuple(each.text for each in conf.remarks),
        messages={each.table: each.message for each in settings.tables if each.message},
        hold_on_loss=settings.hold_on_loss,
        stale_time=settings.stale_time,
        admission=Admission(
            {4: settings.shortest_ipv4, 6: settings.shortest_ipv6}, map(parse_prefix, settings.refuse), own
        ),
    )


def own_addresses(told: Iterable[str] = ()) -> list[Prefix]:
    """Return the addresses of this machine's interfaces, and those of `told` that are addresses. Blocks."""
    texts = {*told, *_interfaces4(), *_interfaces6()}
    found = []
    for text in texts:
        try:
            version, number = number_of(text)
        except ValueError:
            continue
        if number:
            found.append(Prefix(version, 32 if version == 4 else 128, number))
    return found


def neighbor_source(text: str) -> Source:
    """Read whom a table listens to: an address, `group NAME`, or nothing for any."""
    if not text:
        return Peers.ANY
    if text.startswith("group "):
        return Group(text.removeprefix("group ").strip().strip('"'))
    return address_text(*number_of(text))


def _rule_of(settings: CommunityTableSettings, at: int) -> Rule:
    """Return the rule that a `[[feeds.bgp.tables]]` stands for."""
    where = f"feeds.bgp.tables.{at}"
    try:
        rule = Rule(Action.MATCH, (neighbor_source(settings.neighbor),), table=settings.table, where=where)
        if settings.community:
            return replace(rule, communities=(read_community(settings.community),))
        return replace(rule, large=(read_large_community(settings.large_community),))
    except ValueError as wrong:
        raise ValueError(f"{where}: {wrong}") from wrong


def _first(*lengths: Seconds | None) -> Seconds:
    return next(each for each in lengths if each is not None)


def _router_id(own: Iterable[Prefix]) -> str:
    """Return an IPv4 address of this machine, the highest that is not on the loopback; else one that is none."""
    usable = sorted(each.number for each in own if each.version == 4 and each.number >> 24 != 127)
    return str(IPv4Address(usable[-1] if usable else 0xC0000001))


def _interfaces4() -> set[str]:
    """Read the local addresses of the kernel's table; elsewhere than on Linux, those of our name."""
    try:
        lines = _LOCAL4.read_text("ascii").splitlines()
    except OSError:
        return _by_name()
    pairs = itertools.pairwise(lines)
    return {above.split()[-1] for above, line in pairs if line.strip() == "/32 host LOCAL"}


def _interfaces6() -> set[str]:
    try:
        lines = _LOCAL6.read_text("ascii").splitlines()
    except OSError:
        return set()
    return {address_text(6, int(line.split()[0], 16)) for line in lines}


def _by_name() -> set[str]:
    try:
        return {str(each[4][0]) for each in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()
