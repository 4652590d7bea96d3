"""Keep the kernel's sets equal to the tables: what a table holds becomes ranges, what changed becomes one batch.

Entries overlap and have holes; sets must not. So a table is flattened to disjoint ranges first. Ranges of a few
addresses go as single hosts into a hash set, where adding one costs 30 µs whatever the set's size; the others into
an interval set, whose every change costs the kernel a copy of it. Most of what changes alone is a host.

The kernel is never asked what it holds: this model knows, and after any error a set is emptied and filled anew.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple, Protocol

from gatepost.base.clock import Instant
from gatepost.codec import nft
from gatepost.gate.kernel.rules import SETS, TABLE, TIMED, set_name
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import WIDTHS, Prefix

HOSTS_MOST: Final = 8  # addresses of a range that still go in one by one
NEVER: Final = Instant(1 << 62)
_MILLISECOND: Final = 1000
_SECOND: Final = 1_000_000
_VERSIONS: Final = (4, 6)
_NOTHING: Final[frozenset[int]] = frozenset()


class Span(NamedTuple):
    """Addresses from `first` to `last` that a table holds until an instant."""

    first: int
    last: int
    until: Instant = NEVER


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a table: a network, or a hole (`negated`), that ends by itself at `until`."""

    network: Prefix
    negated: bool = False
    until: Instant = NEVER


@dataclass(frozen=True, slots=True)
class Base:
    """What feeds give a table, made ready once: for each set (family, whether of hosts) its keys."""

    keys: Mapping[tuple[int, bool], frozenset[int]] = field(default_factory=dict)

    def of(self, version: int, *, hosts: bool) -> frozenset[int]:
        """Return the keys of one set; the same object each time."""
        return self.keys.get((version, hosts), _NOTHING)


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds, by family: disjoint and ascending spans, and all of `base`.

    Where there is a base, the spans are `few`.
    """

    four: Sequence[Span] = ()
    six: Sequence[Span] = ()
    base: Base = field(default_factory=Base)

    def few(self) -> bool:
        """Tell whether all its spans go in as hosts, which may lie in a base."""
        return all(span.last - span.first < HOSTS_MOST for span in (*self.four, *self.six))

    def of(self, version: int) -> Sequence[Span]:
        """Return the spans of a family."""
        return self.four if version == 4 else self.six


class Kernel(Protocol):
    """Takes batches: `aio.netlink.Netfilter`."""

    def apply(self, changes: Sequence[nft.Change]) -> None: ...


# --- flattening -----------------------------------------------------------------------------------------------


def flatten(members: Iterable[Member], fed: Iterable[Iterable[tuple[int, int]]], version: int) -> list[Span]:
    """Return what a table holds of a family, as `Table.holds` decides it: the longest own entry first, then feeds.

    `fed`: for each feed its ranges (first, last), ascending and disjoint.
    """
    own = list(_segments([each for each in members if each.network.version == version]))
    for_ever = union(fed)
    if any(negated for _, negated in own):
        for_ever = subtract(for_ever, [(span.first, span.last) for span, negated in own if negated])
    positive = [span for span, negated in own if not negated]
    if all(span.until == NEVER for span in positive):
        return [Span(*each) for each in union([for_ever, [(span.first, span.last) for span in positive]])]
    for_ever = union([for_ever, [(span.first, span.last) for span in positive if span.until == NEVER]])
    timed = [
        Span(*piece, span.until)
        for span in positive
        if span.until != NEVER
        for piece in subtract([(span.first, span.last)], _near(for_ever, span))
    ]
    return sorted([*(Span(*each) for each in for_ever), *timed])


def base_of(fed: Sequence[Networks]) -> Base:
    """Make ready what feeds give, which is much and changes seldom: what is added beside it is then cheap."""
    keys: dict[tuple[int, bool], frozenset[int]] = {}
    for version in _VERSIONS:
        width = WIDTHS[version]
        hosts: list[int] = []
        networks: list[int] = []
        parts = [each.ranges(version) for each in fed]
        for first, last in parts[0] if len(parts) == 1 else union(parts):
            if last - first < HOSTS_MOST:
                hosts.extend(each << width | each for each in range(first, last + 1))
            else:
                networks.append(first << width | last)
        keys[version, True], keys[version, False] = frozenset(hosts), frozenset(networks)
    return Base(keys)


def union(several: Iterable[Iterable[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Return ranges as one ascending list in which none overlap or touch."""
    made: list[tuple[int, int]] = []
    begin, end = -1, -2
    for first, last in sorted(chain.from_iterable(several)):
        if first > end + 1:
            if begin >= 0:
                made.append((begin, end))
            begin, end = first, last
        elif last > end:
            end = last
    if begin >= 0:
        made.append((begin, end))
    return made


def subtract(ranges: Sequence[tuple[int, int]], holes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ascending ranges without ascending holes."""
    made: list[tuple[int, int]] = []
    at = 0
    for first, last in ranges:
        while at < len(holes) and holes[at][1] < first:
            at += 1
        begin, look = first, at
        while look < len(holes) and holes[look][0] <= last:
            if holes[look][0] > begin:
                made.append((begin, holes[look][0] - 1))
            begin = max(begin, holes[look][1] + 1)
            look += 1
        if begin <= last:
            made.append((begin, last))
    return made


def _near(ranges: Sequence[tuple[int, int]], span: Span) -> list[tuple[int, int]]:
    return [each for each in ranges if each[1] >= span.first and each[0] <= span.last]


def _segments(members: Sequence[Member]) -> Iterator[tuple[Span, bool]]:
    """Return the parts of the address space that entries decide about, ascending, and whether each is a hole.

    Prefixes nest or are apart: in the order of their first address, the shorter before the longer, the innermost
    open one decides. Where an entry ends before the one around it does, that one holds on.
    """
    every = sorted((each.network.number, each.network.length, each.negated, each.until) for each in members)
    if not every:
        return
    width = WIDTHS[members[0].network.version]
    around: list[tuple[int, bool, Instant]] = []
    at = 0
    for first, length, negated, ends in [*every, (1 << width, width, False, NEVER)]:
        while around and around[-1][0] < first:
            last, hole, until = around.pop()
            if at <= last:
                yield Span(at, last, until), hole
            at = max(at, last + 1)
        if around and at < first:
            yield Span(at, first - 1, around[-1][2]), around[-1][1]
        inherits = bool(around) and not around[-1][1] and not negated
        around.append((first + (1 << width - length) - 1, negated, max(ends, around[-1][2]) if inherits else ends))
        at = first


# --- the model ------------------------------------------------------------------------------------------------


class _Set:
    """One set of the kernel's. Its elements are numbers `first << width | last`: a base, and others beside it.

    While the base is the same object only the others are compared. `_others` is None where nobody knows what the
    kernel has; `_ends` says when some of them leave by themselves.
    """

    def __init__(self, table: str, version: int, *, hosts: bool) -> None:
        self.name = set_name(table, version, hosts=hosts)
        self._version = version
        self._hosts = hosts
        self._timed = table in TIMED
        self._base = _NOTHING
        self._others: Collection[int] | None = None
        self._ends: Mapping[int, Instant] = {}

    def forget(self) -> None:
        """Hold nothing for known."""
        self._others, self._base = None, _NOTHING

    def __len__(self) -> int:
        return len(self._base) + len(self._others or ())

    def changes(self, base: frozenset[int], wanted: Sequence[Span], now: Instant) -> list[nft.Change]:
        """Return what makes the kernel's set hold these; call `holds` when it does."""
        width = WIDTHS[self._version]
        ends = self._ends_of(wanted)
        fresh = {span.first << width | span.last for span in wanted if span.until > now} - base
        if self._others is None:
            return [nft.clear(TABLE, self.name), *self._add(base | fresh, ends, now)]
        held = {key for key in self._others if self._ends.get(key, NEVER) > now}  # the rest left by themselves
        if base is not self._base:
            held |= self._base
            fresh |= base
        moved = {key for key in fresh & held if abs(ends.get(key, NEVER) - self._ends.get(key, NEVER)) >= _SECOND}
        mask = (1 << width) - 1
        leave = (nft.Range(key >> width, key & mask) for key in sorted((held - fresh) | moved))
        return [
            *nft.delete(TABLE, self.name, self._version, leave, hosts=self._hosts),
            *self._add((fresh - held) | moved, ends, now),
        ]

    def holds(self, base: frozenset[int], wanted: Sequence[Span], now: Instant) -> None:
        """Remember what the kernel was given."""
        width = WIDTHS[self._version]
        keys = (span.first << width | span.last for span in wanted if span.until > now)
        others = [key for key in keys if key not in base]
        self._base = base
        self._others = array("Q", others) if self._version == 4 else tuple(others)
        self._ends = self._ends_of(wanted)

    def _ends_of(self, wanted: Sequence[Span]) -> Mapping[int, Instant]:
        width = WIDTHS[self._version]
        return {span.first << width | span.last: span.until for span in wanted} if self._timed else {}

    def _add(self, keys: Iterable[int], ends: Mapping[int, Instant], now: Instant) -> Iterator[nft.Change]:
        width = WIDTHS[self._version]
        mask = (1 << width) - 1
        ranges = (nft.Range(key >> width, key & mask, _left(ends.get(key, NEVER), now)) for key in sorted(keys))
        return nft.add(TABLE, self.name, self._version, ranges, hosts=self._hosts)


class Mirror:
    """All sets of the kernel's, as they should be. Not in use before the ruleset is loaded."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._sets = {
            (table, version, hosts): _Set(table, version, hosts=hosts)
            for table in SETS
            for version in _VERSIONS
            for hosts in (True, False)
        }

    def forget(self) -> None:
        """Know nothing of what the kernel holds: every table has to be given again."""
        for each in self._sets.values():
            each.forget()

    def give(self, table: str, content: Content, now: Instant) -> int:
        """Make the kernel's sets of a table hold this; return how many messages it took.

        What differs is told, in one batch. Where the kernel refuses, the sets are emptied and filled anew; what it
        refuses even then is raised (OSError), and the sets are unknown.
        """
        wanted = {
            (version, hosts): (content.base.of(version, hosts=hosts), spans)
            for version in _VERSIONS
            for hosts, spans in zip((True, False), split(content.of(version)), strict=True)
        }
        try:
            return self._push(table, wanted, now)
        except OSError:
            for version, hosts in wanted:
                self._sets[table, version, hosts].forget()
            return self._push(table, wanted, now)

    def sizes(self) -> Mapping[str, int]:
        """Return how many elements each set was given."""
        return {each.name: len(each) for each in self._sets.values()}

    def _push(
        self, table: str, wanted: Mapping[tuple[int, bool], tuple[frozenset[int], Sequence[Span]]], now: Instant
    ) -> int:
        changes: list[nft.Change] = []
        for (version, hosts), (base, spans) in wanted.items():
            changes += self._sets[table, version, hosts].changes(base, spans, now)
        self._kernel.apply(changes)
        for (version, hosts), (base, spans) in wanted.items():
            self._sets[table, version, hosts].holds(base, spans, now)
        return len(changes)


def split(spans: Iterable[Span]) -> tuple[list[Span], list[Span]]:
    """Part spans into single hosts (of one address each) and networks."""
    hosts: list[Span] = []
    networks: list[Span] = []
    for span in spans:
        first, last, until = span
        if first == last:
            hosts.append(span)
        elif last - first < HOSTS_MOST:
            hosts.extend(Span(each, each, until) for each in range(first, last + 1))
        else:
            networks.append(span)
    return hosts, networks


def _left(until: Instant, now: Instant) -> int:
    """Return the milliseconds that are left; 0 for ever."""
    return 0 if until == NEVER else max(1, (until - now) // _MILLISECOND)
