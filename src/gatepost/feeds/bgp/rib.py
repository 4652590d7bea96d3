"""What neighbours announced, and the tables that follow from it.

`Routes` is the Adj-RIB-In of one neighbour (RFC 4271 §3.2): every prefix with its path, and what the filter said of
it when it came. A table holds a prefix as long as *any* neighbour's route puts it there: it is their union, so
there is nothing to count and nothing to forget when one of two route servers withdraws.

A prefix is one number, `address << 8 | length`; routes are kept in parts, by the first octets of the address. So a
thread can read them while the loop writes: it copies one small part at a time, and the parts come out in order.
An IPv4 route costs some 75 octets. Equal paths are one object. Benchmark: `benchmarks/bgp_feed.py`.

After a lost session that asked for graceful restart (RFC 4724) the routes become `stale`: they still count, until
the neighbour announces them anew, says that it has said all (End-of-RIB), or their time is over.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final
from weakref import WeakValueDictionary

from gatepost.codec.bgp.types import Path
from gatepost.feeds.bgp.filter import NeighborFilter, Outcome, by_prefix
from gatepost.gate.prefix import WIDTHS, Prefix

PATHS_MAX: Final = 65_536  # different paths of one neighbour: each may be as long as its message
_PART_SHIFT: Final = {4: 32, 6: 120}  # a part: the first 8 bits of an IPv4 address, 16 of an IPv6 one
MANY: Final = 64  # prefixes from which on they are put in all together
_HOST4: Final = Struct(">BI")


class Entry:
    """A path and what became of it, shared by all prefixes that came with it."""

    __slots__ = ("__weakref__", "outcome", "path", "table")

    def __init__(self, path: Path, outcome: Outcome) -> None:
        self.path = path
        self.outcome = outcome
        self.table = outcome.table


Place = tuple[int, int]
"""Where a part is: its family and the first bits of its addresses."""

_Part = dict[int, Entry]
_Parts = defaultdict[int, _Part]


class Overflow(Exception):
    """A neighbour announced more than it may; the session must end (RFC 4486)."""


class Routes:
    """The routes of one neighbour. `dirty` names the tables that changed since it was emptied, `places` where."""

    def __init__(self, rules: NeighborFilter, most: int) -> None:
        self._rules = rules
        self._most = most
        self._entries: WeakValueDictionary[tuple[Path, Outcome], Entry] = WeakValueDictionary()
        self._live = _nothing()
        self._stale = _nothing()
        self._counts = {4: 0, 6: 0}
        self._buried: list[_Parts] = []
        self.dirty: set[str] = set()
        self.places: set[Place] = set()

    def announce(self, version: int, keys: Sequence[bytes], path: Path) -> None:
        """Take prefixes (RFC 4271 §4.3, masked) with their path in place of what they had; raises Overflow."""
        rules = self._rules.applying(path)
        packed = pack_keys(version, keys)
        self._note(version, packed)
        if by_prefix(rules):
            entries: dict[Outcome, Entry] = {}
            for each in packed:
                outcome = self._rules.conclude(rules, prefix_of(version, each))
                if (entry := entries.get(outcome)) is None:
                    entry = entries[outcome] = self._entry(path, outcome)
                self._put(version, (each,), entry)
        else:
            self._put(version, packed, self._entry(path, self._rules.conclude(rules)))
        if self.count() > self._most:
            raise Overflow(f"more than {self._most} prefixes")
        if len(self._entries) > PATHS_MAX:
            raise Overflow(f"more than {PATHS_MAX} different paths")

    def withdraw(self, version: int, keys: Sequence[bytes]) -> None:
        """Forget prefixes."""
        live, stale, shift = self._live[version], self._stale[version], _PART_SHIFT[version]
        packed = pack_keys(version, keys)
        self._note(version, packed)
        for each in packed:
            at = each >> shift
            if (entry := live[at].pop(each, None)) is not None:
                self._counts[version] -= 1
                self._touch(entry)
            if stale and (entry := stale[at].pop(each, None)) is not None:
                self._touch(entry)

    def lost(self, *, keep: Collection[int] = ()) -> None:
        """Take the end of the session: the routes of the families in `keep` are stale from now on, others gone.

        What was stale already is forgotten (RFC 4724 §4.2: "previously marked as stale MUST be deleted").
        """
        self.drop_stale()
        live, self._live = self._live, _nothing()
        self._counts = {4: 0, 6: 0}
        for version, parts in live.items():
            if version in keep:
                self._stale[version] = parts
            else:
                self._discard(version, parts)

    def end_of_rib(self, version: int) -> None:
        """Take the neighbour's word that it has announced all of a family: what is still stale is gone."""
        self._drop_stale(version)

    def drop_stale(self) -> None:
        """Forget what is stale."""
        for version in (4, 6):
            self._drop_stale(version)

    def filter_anew(self, rules: NeighborFilter) -> Iterator[None]:
        """Ask other rules about everything that was announced, one part at a step."""
        self._rules = rules
        for places in (self._live, self._stale):
            for version, parts in tuple(places.items()):
                for at, part in tuple(parts.items()):
                    yield
                    self.places.add((version, at))
                    for each, entry in tuple(part.items()):
                        fitting = rules.applying(entry.path)
                        outcome = rules.conclude(fitting, prefix_of(version, each))
                        if outcome != entry.outcome:
                            self._touch(entry)
                            part[each] = renewed = self._entry(entry.path, outcome)
                            self._touch(renewed)

    def count(self, version: int | None = None) -> int:
        """Return how many prefixes are announced."""
        return self._counts[version] if version else sum(self._counts.values())

    def stale_count(self) -> int:
        """Return how many are stale."""
        return sum(_count(parts) for parts in self._stale.values())

    def parts(self, version: int) -> set[int]:
        """Return where routes are; safe in a thread."""
        return {*tuple(self._live[version]), *tuple(self._stale[version])}

    def everywhere(self) -> set[Place]:
        """Return where routes are, of both families."""
        return {(version, at) for version in (4, 6) for at in self.parts(version)}

    def bury(self) -> None:
        """Free what was forgotten: many small steps, to be made in a thread."""
        while self._buried:
            parts = self._buried.pop()
            while parts:
                parts.popitem()

    def part(self, version: int, at: int) -> list[tuple[int, Entry, bool]]:
        """Return the routes of one part, and whether each is stale; safe in a thread."""
        live, stale = self._live[version].get(at, {}), self._stale[version].get(at, {})
        found = [(each, entry, False) for each, entry in live.copy().items()]
        return found + [(each, entry, True) for each, entry in stale.copy().items()]

    def in_table(self, version: int, at: int, table: str) -> list[int]:
        """Return the prefixes of one part that are in a table; safe in a thread."""
        found: list[int] = []
        for places in (self._live, self._stale):
            part = places[version].get(at)
            if part:
                found += [each for each, entry in part.copy().items() if entry.table == table]
        return found

    def _put(self, version: int, packed: Sequence[int], entry: Entry) -> None:
        parts, shift, stale = self._live[version], _PART_SHIFT[version], self._stale[version]
        if len(packed) >= MANY and not stale:
            self._put_many(version, packed, entry)
            return
        for each in packed:
            part = parts[each >> shift]
            old = part.get(each)
            part[each] = entry
            if old is None:
                self._counts[version] += 1
                if stale:
                    old = stale[each >> shift].pop(each, None)
            self._replace(old, entry)

    def _put_many(self, version: int, packed: Sequence[int], entry: Entry) -> None:
        """Do the same with less work for each prefix, for most of a large UPDATE are new."""
        parts, shift = self._live[version], _PART_SHIFT[version]
        for each in packed:
            part = parts[each >> shift]
            old = part.setdefault(each, entry)
            if old is not entry:
                part[each] = entry
                self._replace(old, entry)
        count = _count(parts)
        if count != self._counts[version]:
            self._counts[version] = count
            self._touch(entry)

    def _replace(self, old: Entry | None, entry: Entry) -> None:
        """Note the tables that change when one entry takes another's place."""
        if old is None:
            self._touch(entry)
        elif old.table != entry.table:
            self._touch(old)
            self._touch(entry)

    def _entry(self, path: Path, outcome: Outcome) -> Entry:
        entry = self._entries.get((path, outcome))
        if entry is None:
            entry = self._entries[path, outcome] = Entry(path, outcome)
        return entry

    def _drop_stale(self, version: int) -> None:
        parts, self._stale[version] = self._stale[version], defaultdict(dict)
        self._discard(version, parts)

    def _note(self, version: int, packed: Iterable[int]) -> None:
        """Note where something changes."""
        shift = _PART_SHIFT[version]
        self.places.update([(version, at) for at in {each >> shift for each in packed}])

    def _touch(self, entry: Entry) -> None:
        if entry.table:
            self.dirty.add(entry.table)

    def _discard(self, version: int, parts: _Parts) -> None:
        """Bury routes that are gone; note all tables that an entry may name, for there may be very many routes."""
        if any(parts.values()):
            self.dirty.update(entry.table for entry in self._entries.values() if entry.table)
            self.places.update((version, at) for at in parts)
            self._buried.append(parts)


@dataclass(frozen=True, slots=True)
class _Range:
    """Addresses that must not be listed."""

    first: int
    last: int
    why: str


class Admission:
    """What may go into a table, whatever a filter says: no default route, no bogon, not ourselves."""

    def __init__(self, shortest: dict[int, int], refuse: Iterable[Prefix] = (), own: Iterable[Prefix] = ()) -> None:
        """`shortest`: the least prefix length of each family; `refuse` and `own`: networks, our addresses."""
        self._shortest = shortest
        ranges: dict[int, list[_Range]] = {4: [], 6: []}
        for why, networks in (("refused", refuse), ("of this machine", own)):
            for each in networks:
                last = each.number + (1 << WIDTHS[each.version] - each.length) - 1
                ranges[each.version].append(_Range(each.number, last, f"{each.text} is {why}"))
        self._ranges = ranges

    def refusal(self, version: int, packed: int) -> str:
        """Return why a prefix goes into no table, or nothing."""
        number, length = packed >> 8, packed & 0xFF
        if length < self._shortest[version]:
            return f"shorter than /{self._shortest[version]}"
        last = number + (1 << WIDTHS[version] - length) - 1
        for each in self._ranges[version]:
            if number <= each.last and each.first <= last:
                return each.why
        return ""

    def admitted(self, version: int, packed: list[int]) -> list[int]:
        """Return those of ascending prefixes that may go into a table."""
        shortest = self._shortest[version]
        longest_block = 1 << WIDTHS[version] - shortest
        found = [each for each in packed if each & 0xFF >= shortest]
        for each in self._ranges[version]:  # only what begins near a range can reach into it
            low = bisect_left(found, max(0, each.first - longest_block + 1) << 8)
            high = bisect_left(found, each.last + 1 << 8)
            if low < high:
                found[low:high] = [one for one in found[low:high] if not self.refusal(version, one)]
        return found


def members(routes: Sequence[Routes], table: str, admission: Admission) -> tuple[list[int], list[int]]:
    """Return what a table holds by the routes of all neighbours: IPv4 and IPv6 prefixes, ascending, each once.

    `table.FedTable` makes the same of what changed only.
    """
    four, six = (admission.admitted(version, _union(routes, version, table)) for version in (4, 6))
    return four, six


def pack_keys(version: int, keys: Sequence[bytes]) -> list[int]:
    """Return prefixes as numbers: `address << 8 | length`."""
    if version == 4 and set(map(len, keys)) == {5}:
        return [number << 8 | length for length, number in _HOST4.iter_unpack(b"".join(keys))]
    octets_of = WIDTHS[version] // 8
    return [int.from_bytes(key[1:].ljust(octets_of, b"\0")) << 8 | key[0] for key in keys]


def prefix_of(version: int, packed: int) -> Prefix:
    """Return a prefix from its number."""
    return Prefix(version, packed & 0xFF, packed >> 8)


def _union(routes: Sequence[Routes], version: int, table: str) -> list[int]:
    found: list[int] = []
    for at in sorted({at for each in routes for at in each.parts(version)}):
        part: list[int] = []
        for each in routes:
            part += each.in_table(version, at, table)
        found += sorted(set(part)) if len(routes) > 1 else sorted(part)
    return found


def _nothing() -> dict[int, _Parts]:
    return {4: defaultdict(dict), 6: defaultdict(dict)}


def _count(parts: _Parts) -> int:
    return sum(map(len, parts.values()))
