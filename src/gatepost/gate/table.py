"""Tables of addresses as PF has them: networks of both families, longest prefix wins, `!` entries cut holes.

One dict a prefix length: a lookup asks as many dicts as there are lengths in use, mostly one or two. A table of
many lengths that was made in one piece also has the borders of what it holds in one sorted array, as long as
nothing is added or deleted. What feeds and large files give is held beside, in parts, compact (`networks`); an
entry that an operator or a limit made has the first word: a hole made by hand takes an address out of every feed.
Benchmark: `benchmarks/gate.py tables`.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gatepost.base.clock import Instant
from gatepost.gate.bans import touches
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import WIDTHS, Prefix, number_of, parse_prefix

NAME_MAX: Final = 31  # PF_TABLE_NAME_SIZE without its NUL
COUNTED_MAX: Final = 10_000  # entries with counts that were not yet written

COMPACT_FROM: Final = 1_000  # entries of a file, which have no age and no counts to keep
FLAT_FROM: Final = 5  # lengths in use: fewer dicts are faster than one binary search

_Lengths = tuple[tuple[int, int, dict[int, int]], ...]


class TableFull(Exception):
    """The entries would be more than the limit: nothing was changed ("Cannot allocate memory" in PF)."""


class BadEntry(ValueError):
    """Text that is no address or network."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: a network, or with `negated` a hole in a larger one.

    `since`: when it was added or last cleared; `note`: why, when it was a limit that put it here; `blocked` and
    `passed`: connections that it decided.
    """

    network: Prefix
    negated: bool = False
    since: Instant = Instant(0)
    note: str = ""
    blocked: int = 0
    passed: int = 0

    @property
    def text(self) -> str:
        """Return it as pfctl shows it: a full host without its length."""
        return self.network.text


def parse_entry(text: str, since: Instant = Instant(0)) -> Entry:
    """Read `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32` or `!192.0.2.9`; raises BadEntry."""
    try:
        return Entry(parse_prefix(text.removeprefix("!").strip()), text.startswith("!"), since)
    except ValueError as wrong:
        raise BadEntry(f"{text!r} is no address or network") from wrong


def parse_file(text: str, since: Instant = Instant(0)) -> list[Entry]:
    """Read a table's file: entries parted by white space, # begins a comment; BadEntry names the line."""
    return list(_entries(text.split("\n"), since))


def read_file(path: Path, since: Instant = Instant(0)) -> list[Entry]:
    """Read a table's file; BadEntry names file and line, OSError where it cannot be read."""
    with _naming(path), path.open(encoding="utf-8") as lines:
        return list(_entries(lines, since))


def read_compact(path: Path, since: Instant = Instant(0)) -> list[Entry] | Networks:
    """Read a table's file as networks where it is large and has no holes; raises as `read_file` does.

    A line at a time: a file of a million entries never stands in memory as such.
    """
    with _naming(path), path.open(encoding="utf-8") as lines:
        four, six = array("Q"), list[int]()
        for entry in _entries(lines, since):
            if entry.negated:
                return read_file(path, since)
            packed = entry.network.number << 8 | entry.network.length
            (four if entry.network.version == 4 else six).append(packed)
    return Networks.packed(four, six) if len(four) + len(six) >= COMPACT_FROM else read_file(path, since)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong in it."""
    try:
        yield
    except (BadEntry, UnicodeDecodeError) as wrong:
        raise BadEntry(f"{path}: {wrong}".replace(f"{path}: {path}: ", f"{path}: ")) from wrong


def _entries(lines: Iterable[str], since: Instant) -> Iterator[Entry]:
    for number, line in enumerate(lines, 1):
        for word in line.partition("#")[0].split():
            try:
                yield parse_entry(word, since)
            except BadEntry as wrong:
                raise BadEntry(f"line {number}: {wrong}") from wrong


class Table:
    """One table. An entry is its number, shifted, and its `since`; a hole's is kept as ~since, below zero.

    `parts` are what feeds own of it, by source.
    """

    __slots__ = ("_counts", "_fed", "_flat", "_four", "_lengths", "_six", "filled", "holds", "name", "parts")

    holds: Callable[[int, int], bool]
    """Tell whether an address, given as family and number, is in the table: `_holds`, or that of its only part."""

    def __init__(
        self, name: str, entries: Iterable[Entry] = (), parts: Mapping[str, Networks] = MappingProxyType({})
    ) -> None:
        self.name = name
        self.parts = parts
        self._fed = tuple(part for part in parts.values() if part)
        self._lengths: dict[tuple[int, int], dict[int, int]] = {}
        self._four: _Lengths = ()
        self._six: _Lengths = ()
        self._counts: dict[Prefix, list[int]] = {}
        for entry in entries:
            self._put(entry)
        self._order()
        self._flat: dict[int, tuple[Sequence[int], bytes]] = {
            version: _borders(lengths)
            for version, lengths in ((4, self._four), (6, self._six))
            if len(lengths) >= FLAT_FROM
        }
        self._choose()

    def __len__(self) -> int:
        return sum(len(found) for found in self._lengths.values()) + sum(len(part) for part in self._fed)

    def touches(self, prefix: Prefix) -> bool:
        """Tell whether a network has an address in common with an entry that is no hole."""
        if self.holds(prefix.version, prefix.number):
            return True
        return not prefix.host and (
            any(touches(prefix, entry.network) for entry in self._own() if not entry.negated)
            or any(part.touches(prefix) for part in self._fed)
        )

    def __iter__(self) -> Iterator[Entry]:
        yield from self._own()
        for source, part in self.parts.items():
            for network in part:
                yield Entry(network, note=source)

    def _own(self) -> Iterator[Entry]:
        for (version, length), found in sorted(self._lengths.items()):
            shift = WIDTHS[version] - length
            for number, since in sorted(found.items()):
                yield Entry(Prefix(version, length, number << shift), since < 0, _since(since))

    def __contains__(self, network: Prefix) -> bool:
        return self.get(network) is not None

    def get(self, network: Prefix) -> Entry | None:
        """Return the entry of exactly this network, of those that no feed owns."""
        found = self._lengths.get((network.version, network.length), {})
        since = found.get(network.number >> WIDTHS[network.version] - network.length)
        return None if since is None else Entry(network, since < 0, _since(since))

    def add(self, entry: Entry) -> bool:
        """Add an entry; return whether it is new (one that is there keeps its sign and its age)."""
        lengths = len(self._lengths)
        new = self._put(entry)
        self._flat.pop(entry.network.version, None)
        if len(self._lengths) != lengths:
            self._order()
            self._choose()
        return new

    def delete(self, network: Prefix) -> bool:
        """Remove the entry of exactly this network; return whether it was there."""
        key = network.version, network.length
        found = self._lengths.get(key)
        if found is None or found.pop(network.number >> WIDTHS[network.version] - network.length, None) is None:
            return False
        self._flat.pop(network.version, None)
        if not found:
            del self._lengths[key]
            self._order()
            self._choose()
        return True

    def match(self, ip: str) -> Entry | None:
        """Return the best matching entry, which may be a hole; None for none."""
        version, number = number_of(ip)
        for shift, length, found in self._four if version == 4 else self._six:
            since = found.get(number >> shift)
            if since is not None:
                return Entry(Prefix(version, length, number >> shift << shift), since < 0, _since(since))
        for source, part in self.parts.items():
            network = part.cover(version, number)
            if network is not None:
                return Entry(network, note=source)
        return None

    def _holds(self, version: int, number: int) -> bool:
        flat = self._flat.get(version) if self._flat and not self._fed else None
        if flat is not None:
            return flat[1][bisect_right(flat[0], number)] == 1
        for shift, _, found in self._four if version == 4 else self._six:
            since = found.get(number >> shift)
            if since is not None:
                return since >= 0
        for part in self._fed:  # noqa: SIM110  (a generator costs a third of a microsecond)
            if part.holds(version, number):
                return True
        return False

    def count(self, version: int, number: int, *, passed: bool) -> None:
        """Count a connection for the entry that decided about it."""
        for shift, length, found in self._four if version == 4 else self._six:
            if number >> shift in found:
                network = Prefix(version, length, number >> shift << shift)
                if network in self._counts or len(self._counts) < COUNTED_MAX:
                    self._counts.setdefault(network, [0, 0])[passed] += 1
                return

    def take_counts(self) -> Mapping[Prefix, list[int]]:
        """Return (blocked, passed) of the entries that were hit since the last call."""
        counts, self._counts = self._counts, {}
        return counts

    def _put(self, entry: Entry) -> bool:
        network = entry.network
        found = self._lengths.setdefault((network.version, network.length), {})
        number = network.number >> WIDTHS[network.version] - network.length
        if number in found:
            return False
        found[number] = ~entry.since if entry.negated else entry.since
        return True

    def _choose(self) -> None:
        """Choose how membership is asked: most tables are empty, or one feed's alone."""
        alone = not self._lengths and len(self._fed) == 1
        self.holds = self._fed[0].holds if alone else self._holds
        self.filled = bool(self._lengths or self._fed)

    def _order(self) -> None:
        def longest_first(family: int) -> _Lengths:
            return tuple(
                (WIDTHS[version] - length, length, found)
                for (version, length), found in sorted(self._lengths.items(), reverse=True)
                if version == family
            )

        self._four, self._six = longest_first(4), longest_first(6)


class Tables:
    """All tables by name, with one limit over their entries."""

    def __init__(self, limit: int, names: Iterable[str] = ()) -> None:
        self.limit = limit
        self.version = 0
        """Grows with each change: who keeps a table knows when to look again."""
        self._tables: dict[str, Table] = {name: Table(name) for name in names}

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[Table]:
        return iter(tuple(self._tables.values()))

    def __len__(self) -> int:
        return sum(len(table) for table in self)

    def replace(self, table: Table) -> None:
        """Give the table of that name new content in one step; TableFull keeps the old."""
        old = self._tables.get(table.name, ())
        self.check_room(len(table) - len(old))
        self._tables[table.name] = table
        self.version += 1

    def add(self, name: str, entry: Entry) -> None:
        """Add one entry to a table; raises TableFull."""
        self.check_room(1)
        self._tables[name].add(entry)
        self.version += 1

    def check_room(self, more: int) -> None:
        """Raise TableFull where `more` entries do not fit."""
        count = len(self) + more
        if more > 0 and count > self.limit:
            raise TableFull(f"{count} entries are more than the limit of {self.limit}")

    def sizes(self) -> Mapping[str, int]:
        """Return how many entries each table has."""
        return {table.name: len(table) for table in self}


def _since(kept: int) -> Instant:
    return Instant(~kept if kept < 0 else kept)


def _borders(lengths: _Lengths) -> tuple[Sequence[int], bytes]:
    """Return the numbers at which membership changes, and whether it holds before each of them and after the last.

    The prefixes are met in the order of their first address, the longer inside the shorter; `around` are those
    that the sweep is inside of, as (last address, membership).
    """
    every = sorted(
        (number << shift, -shift, since >= 0) for shift, _, found in lengths for number, since in found.items()
    )
    borders: list[int] = []
    holds = bytearray(b"\0")
    around: list[tuple[int, bool]] = []

    def change(number: int, member: bool) -> None:
        if borders and borders[-1] == number:
            borders.pop()
            holds.pop()
        if holds[-1] != member:
            borders.append(number)
            holds.append(member)

    def leave(before: int | None) -> None:
        while around and (before is None or around[-1][0] < before):
            last, _ = around.pop()
            change(last + 1, around[-1][1] if around else False)

    for first, shift, member in every:
        leave(first)
        change(first, member)
        around.append((first + (1 << -shift) - 1, member))
    leave(None)
    fits = not borders or borders[-1] < 1 << 32
    return (array("L", borders) if fits else borders), bytes(holds)
