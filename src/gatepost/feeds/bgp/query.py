"""Questions about the RIB: which routes, and how they are shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.feeds.bgp.door import Refused
from gatepost.feeds.bgp.filter import Action, NeighborFilter, Rule
from gatepost.feeds.bgp.plan import Plan
from gatepost.feeds.bgp.rib import Entry, Routes, prefix_of
from gatepost.feeds.bgp.rules import read_community, read_large_community
from gatepost.feeds.bgp.settings import NeighborSettings
from gatepost.feeds.bgp.show import RibRow, community_text
from gatepost.gate.prefix import address_text, number_of

EBGP_LOCAL_PREF: Final = 100

Peer = tuple[NeighborSettings, Routes]


@dataclass(frozen=True, slots=True)
class RibQuery:
    """What `show rib` is asked for; empty is all. `received`: also what filters did not take."""

    community: str = ""
    large_community: str = ""
    neighbor: str = ""
    table: str = ""
    received: bool = False

    @classmethod
    def of(cls, given: Mapping[str, object]) -> "RibQuery":
        """Read a question; raises Refused."""
        community, large, neighbor, table = (
            str(given.get(name, "")) for name in ("community", "large_community", "neighbor", "table")
        )
        query = cls(community, large, neighbor, table, given.get("received") is True)
        query.rules()  # says what is wrong with it
        return query

    def rules(self) -> tuple[Rule, ...]:
        """Return a rule that allows the paths that are asked for; raises Refused."""
        try:
            communities = (read_community(self.community),) if self.community else ()
            large = (read_large_community(self.large_community),) if self.large_community else ()
        except ValueError as wrong:
            raise Refused(str(wrong)) from wrong
        return (Rule(Action.ALLOW, communities=communities, large=large),)


def rib_rows(asked: Sequence[Peer], every: Sequence[Peer], query: RibQuery, plan: Plan) -> Iterator[list[RibRow]]:
    """Make the rows of the routes of `asked` in the order of their prefixes, part by part; safe in a thread.

    `every` are all neighbours: the best path of a prefix, with >, may be another's.
    """
    filters = {id(routes): NeighborFilter(query.rules(), plan.who(settings)) for settings, routes in asked}
    for version in (4, 6):
        for at in sorted({at for _, routes in every for at in routes.parts(version)}):
            yield _part(version, at, asked, every, query, plan, filters)


def _part(
    version: int,
    at: int,
    asked: Sequence[Peer],
    every: Sequence[Peer],
    query: RibQuery,
    plan: Plan,
    filters: Mapping[int, NeighborFilter],
) -> list[RibRow]:
    best: dict[int, tuple[tuple[int, ...], int]] = {}
    found: list[tuple[int, int, NeighborSettings, Routes, Entry, bool]] = []
    wanted = {id(routes) for _, routes in asked}
    for order, (settings, routes) in enumerate(every):
        for packed, entry, stale in routes.part(version, at):
            if entry.outcome.accepted:
                rank = _rank(entry, settings, plan)
                if packed not in best or rank < best[packed][0]:
                    best[packed] = rank, order
            if id(routes) in wanted:
                found.append((packed, order, settings, routes, entry, stale))
    found.sort(key=lambda each: each[:2])
    return [
        _row(version, packed, settings, entry, plan, stale=stale, selected=best.get(packed, (None, -1))[1] == order)
        for packed, order, settings, routes, entry, stale in found
        if _is_asked_for(entry, query, filters[id(routes)])
    ]


def _is_asked_for(entry: Entry, query: RibQuery, asked: NeighborFilter) -> bool:
    if not entry.outcome.accepted and not query.received:
        return False
    return (not query.table or query.table == entry.table) and bool(asked.applying(entry.path))


def _row(
    version: int, packed: int, settings: NeighborSettings, entry: Entry, plan: Plan, *, stale: bool, selected: bool
) -> RibRow:
    path, outcome = entry.path, entry.outcome
    prefix = prefix_of(version, packed)
    refused = "" if outcome.table else outcome.why if not outcome.accepted else "no rule gives it a table"
    return RibRow(
        prefix=f"{address_text(version, prefix.number)}/{prefix.length}",
        gateway=path.next_hop_text,
        neighbor=settings.address,
        as_path=path.as_path_text,
        origin=path.origin,
        local_pref=_local_pref(entry, settings, plan),
        med=path.med or 0,
        valid=outcome.accepted,
        selected=selected,
        internal=settings.remote_as == plan.asn,
        stale=stale,
        communities=[community_text(each) for each in path.communities],
        table=outcome.table,
        refused=refused or plan.admission.refusal(version, packed),
    )


def _local_pref(entry: Entry, settings: NeighborSettings, plan: Plan) -> int:
    """Return it as bgpd has it: of our own AS what was sent, else 100 (RFC 4271 §5.1.5)."""
    told = entry.path.local_pref if settings.remote_as == plan.asn else None
    return EBGP_LOCAL_PREF if told is None else told


def _rank(entry: Entry, settings: NeighborSettings, plan: Plan) -> tuple[int, ...]:
    """Return what makes a path the best, the least first (RFC 4271 §9.1)."""
    path = entry.path
    _, address = number_of(settings.address)
    return -_local_pref(entry, settings, plan), len(path.as_path), path.origin, path.med or 0, address
