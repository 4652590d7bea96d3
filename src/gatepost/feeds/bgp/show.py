"""What `gatepost bgp` prints, octet by octet as bgpctl of OpenBSD 5.7 did: scripts read it with sed.

Later bgpctl has more header lines and columns, on which the article's `sed 1,4d` breaks. For new scripts there are
`--addresses-only`, `export` and JSON.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

SUMMARY_HEAD: Final = (
    f"{'Neighbor':<20} {'AS':>8} {'MsgRcvd':>10} {'MsgSent':>10} {'OutQ':>5} {'Up/Down':<8} State/PrfRcvd"
)
RIB_HEAD: Final = (
    "flags: * = Valid, > = Selected, I = via IBGP, A = Announced, S = Stale",
    "origin: i = IGP, e = EGP, ? = Incomplete",
    "",
    f"{'flags':<5} {'destination':<20} {'gateway':<15}  {'lpref':>5} {'med':>5} aspath origin",
)
NAME_WIDTH: Final = 28  # of the neighbour's name and its AS together
ESTABLISHED: Final = "Established"
_ORIGINS: Final = ("i", "e", "?")


@dataclass(frozen=True, slots=True)
class Messages:
    """How many messages of each kind were sent or received."""

    opens: int = 0
    notifications: int = 0
    updates: int = 0
    keepalives: int = 0
    refreshes: int = 0

    @property
    def total(self) -> int:
        """Return how many in all."""
        return self.opens + self.notifications + self.updates + self.keepalives + self.refreshes


@dataclass(frozen=True, slots=True)
class NeighborStatus:
    """One neighbour as it is now; lengths of time in whole seconds, None for never."""

    address: str
    remote_as: int
    state: str
    description: str = ""
    group: str = ""
    since: int | None = None
    """Since the session went up or down."""
    last_read: int | None = None
    sent: Messages = field(default_factory=Messages)
    received: Messages = field(default_factory=Messages)
    prefixes: int = 0
    stale: int = 0
    max_prefix: int = 0
    max_prefix_restart: int = 0
    multihop: int = 0
    passive: bool = False
    remote_id: str = ""
    holdtime: int = 0
    capabilities: Sequence[str] = ()
    prefixes_received: int = 0
    withdraws_received: int = 0
    ends_of_rib: int = 0
    local: str = ""
    remote: str = ""
    last_error: str = ""

    @property
    def name(self) -> str:
        """Return what it is called in lists."""
        return self.description or self.address


@dataclass(frozen=True, slots=True)
class RibRow:
    """One path of one prefix; `refused` says why it fills no table, where it does not."""

    prefix: str
    gateway: str
    neighbor: str
    as_path: str
    origin: int
    local_pref: int = 100
    med: int = 0
    valid: bool = True
    selected: bool = False
    internal: bool = False
    stale: bool = False
    communities: Sequence[str] = ()
    table: str = ""
    refused: str = ""

    @property
    def flags(self) -> str:
        """Return its flags in bgpctl's letters."""
        marks = ((self.internal, "I"), (self.stale, "S"), (self.valid, "*"), (self.selected, ">"))
        return "".join(mark for is_so, mark in marks if is_so)


def timeframe(seconds: int | None) -> str:
    """Write a length of time: `00:01:02`, `3d06h17m`, `02w0d00h` or `Never`."""
    if seconds is None:
        return "Never"
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    weeks, day = divmod(days, 7)
    if weeks:
        return f"{weeks:02}w{day}d{hour:02}h"
    if day:
        return f"{day}d{hour:02}h{minute:02}m"
    return f"{hour:02}:{minute:02}:{second:02}"


def summary(neighbors: Iterable[NeighborStatus]) -> Iterator[str]:
    """Write `show summary`, line by line."""
    yield SUMMARY_HEAD
    for each in neighbors:
        number = str(each.remote_as)
        width = NAME_WIDTH - len(number)
        if each.state == ESTABLISHED:
            state = f"{each.prefixes:>6}" + (f"/{each.max_prefix}" if each.max_prefix else "")
        else:
            state = each.state
        yield (
            f"{each.name[:width]:<{width}} {number} {each.received.total:>10} {each.sent.total:>10} {0:>5} "
            f"{timeframe(each.since):<8} {state}"
        )


def rib_row(row: RibRow) -> str:
    """Write one row of `show rib`."""
    path = f"{row.as_path} " if row.as_path else ""
    return (
        f"{row.flags:<5} {row.prefix:<20} {row.gateway:<15}  {row.local_pref:>5} {row.med:>5} "
        f"{path}{_ORIGINS[row.origin]}"
    )


def neighbor(each: NeighborStatus) -> Iterator[str]:
    """Write `show neighbor`."""
    passive = ", Passive" if each.passive else ""
    multihop = f", Multihop ({each.multihop})" if each.multihop > 1 else ""
    yield f"BGP neighbor is {each.address}, remote AS {each.remote_as}{passive}{multihop}"
    if each.description:
        yield f" Description: {each.description}"
    if each.max_prefix:
        restart = f" (restart {each.max_prefix_restart // 60})" if each.max_prefix_restart else ""
        yield f" Max-prefix: {each.max_prefix}{restart}"
    yield f"  BGP version 4, remote router-id {each.remote_id or '0.0.0.0'}"  # noqa: S104  (bgpctl's "none")
    way = "up" if each.state == ESTABLISHED else "down"
    yield f"  BGP state = {each.state}" + (f", {way} for {timeframe(each.since)}" if each.since is not None else "")
    yield (
        f"  Last read {timeframe(each.last_read)}, holdtime {each.holdtime}s, "
        f"keepalive interval {each.holdtime // 3}s"
    )
    if each.capabilities:
        yield "  Neighbor capabilities:"
        yield from (f"    {capability}" for capability in each.capabilities)
    yield ""
    yield from _statistics(each)
    if each.last_error:
        yield ""
        yield f"  Last error: {each.last_error}"
    if each.local:
        yield ""
        yield f"  Local host:  {each.local}"
        yield f"  Remote host: {each.remote}"


def community_text(community: int) -> str:
    """Write a community: `65066:42`."""
    return f"{community >> 16}:{community & 0xFFFF}"


def refusals(counts: Mapping[str, int]) -> Iterator[str]:
    """Say, for people, why prefixes that a neighbour sent are in no table."""
    for why, count in sorted(counts.items(), key=lambda each: -each[1]):
        yield f"{count} prefix{'es' if count > 1 else ''} in no table: {why}"


def _statistics(each: NeighborStatus) -> Iterator[str]:
    yield "  Message statistics:"
    yield f"  {'':<15} {'Sent':<10} {'Received':<10}"
    for title, sent, received in (
        ("Opens", each.sent.opens, each.received.opens),
        ("Notifications", each.sent.notifications, each.received.notifications),
        ("Updates", each.sent.updates, each.received.updates),
        ("Keepalives", each.sent.keepalives, each.received.keepalives),
        ("Route Refresh", each.sent.refreshes, each.received.refreshes),
        ("Total", each.sent.total, each.received.total),
    ):
        yield f"  {title:<15} {sent:>10} {received:>10}"
    yield ""
    yield "  Update statistics:"
    yield f"  {'':<15} {'Sent':<10} {'Received':<10}"
    for title, received in (
        ("Updates", each.prefixes_received),
        ("Withdraws", each.withdraws_received),
        ("End-of-Rib", each.ends_of_rib),
    ):
        yield f"  {title:<15} {0:>10} {received:>10}"
    yield f"  {'Prefixes':<15} {'':>10} {each.prefixes:>10}"
    if each.stale:
        yield f"  {'Stale':<15} {'':>10} {each.stale:>10}"
