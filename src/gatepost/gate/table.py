"""Tables of addresses as PF has them: networks of both families, longest prefix wins, `!` entries cut holes.

One dict a prefix length: a lookup asks as many dicts as there are lengths in use, mostly one or two, and an
entry costs about 100 octets.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from gatepost.base.clock import Instant

NAME_MAX: Final = 31
Network = IPv4Network | IPv6Network


class TableFull(Exception):
    """The entries would be more than the limit: nothing was changed ("Cannot allocate memory" in PF)."""


class BadEntry(ValueError):
    """Text that is no address or network."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: a network, or with `negated` a hole in a larger one; `since` it was added or last cleared."""

    network: Network
    negated: bool = False
    since: Instant = Instant(0)

    @property
    def text(self) -> str:
        """Return it as pfctl shows it: a full host without its length."""
        whole = self.network.prefixlen == self.network.max_prefixlen
        return str(self.network.network_address) if whole else str(self.network)


def parse_entry(text: str, since: Instant = Instant(0)) -> Entry:
    """Read `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32` or `!192.0.2.9`; raises BadEntry."""
    negated = text.startswith("!")
    try:
        network = ip_network(text.removeprefix("!").strip(), strict=False)
    except ValueError as wrong:
        raise BadEntry(f"{text!r} is no address or network") from wrong
    if (
        isinstance(network, IPv6Network)
        and network.network_address.ipv4_mapped is not None
        and network.prefixlen >= 96
    ):
        mapped = network.network_address.ipv4_mapped
        network = ip_network((mapped, network.prefixlen - 96))
    return Entry(network, negated, since)


def parse_file(text: str) -> list[Entry]:
    """Read a table's file: entries parted by white space, # begins a comment; BadEntry names the line."""
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        for word in line.partition("#")[0].split():
            try:
                entries.append(parse_entry(word))
            except BadEntry as wrong:
                raise BadEntry(f"line {number}: {wrong}") from wrong
    return entries


class Table:
    """One table."""

    __slots__ = ("_holes", "_lengths", "_since", "name")

    def __init__(self, name: str, entries: Iterable[Entry] = ()) -> None:
        self.name = name
        self._lengths: dict[tuple[int, int], dict[int, Instant]] = {}
        self._holes: set[tuple[int, int, int]] = set()
        self._since: tuple[tuple[int, int], ...] = ()
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return sum(len(found) for found in self._lengths.values())

    def __iter__(self) -> Iterator[Entry]:
        for (version, length), found in sorted(self._lengths.items()):
            for number, since in sorted(found.items()):
                network: Network = IPv4Network((number, length)) if version == 4 else IPv6Network((number, length))
                yield Entry(network, (version, length, number) in self._holes, since)

    def add(self, entry: Entry) -> bool:
        """Add an entry; return whether it is new (one that is there keeps its age)."""
        version, length, number = _key(entry.network)
        found = self._lengths.setdefault((version, length), {})
        if number in found:
            return False
        found[number] = entry.since
        if entry.negated:
            self._holes.add((version, length, number))
        self._since = tuple(sorted(self._lengths, key=lambda key: -key[1]))
        return True

    def delete(self, network: Network) -> bool:
        """Remove the entry of exactly this network; return whether it was there."""
        version, length, number = _key(network)
        found = self._lengths.get((version, length))
        if found is None or found.pop(number, None) is None:
            return False
        self._holes.discard((version, length, number))
        if not found:
            del self._lengths[version, length]
            self._since = tuple(sorted(self._lengths, key=lambda key: -key[1]))
        return True

    def clear(self) -> None:
        """Remove everything."""
        self._lengths.clear()
        self._holes.clear()
        self._since = ()

    def match(self, ip: str) -> Entry | None:
        """Return the best matching entry; None for none, and for a hole."""
        address = ip_address(ip)
        version, whole, width = address.version, int(address), address.max_prefixlen
        for family, length in self._since:
            if family != version:
                continue
            number = whole >> (width - length) << (width - length)
            since = self._lengths[family, length].get(number)
            if since is not None:
                hole = (family, length, number) in self._holes
                return (
                    None
                    if hole
                    else Entry(
                        ip_network((number, length)) if family == 4 else IPv6Network((number, length)), since=since
                    )
                )
        return None

    def holds(self, version: int, whole: int) -> bool:
        """Tell whether an address, given as a number, is in the table: the fast way of `match`."""
        width = 32 if version == 4 else 128
        for family, length in self._since:
            if family == version:
                number = whole >> (width - length) << (width - length)
                if number in self._lengths[family, length]:
                    return not self._holes or (family, length, number) not in self._holes
        return False


class Tables:
    """All tables by name, with one limit over their entries."""

    def __init__(self, limit: int, names: Iterable[str] = ()) -> None:
        self._limit = limit
        self._tables: dict[str, Table] = {name: Table(name) for name in names}

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __contains__(self, name: str) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[Table]:
        return iter(self._tables.values())

    def replace(self, name: str, entries: Iterable[Entry]) -> None:
        """Give a table new content in one step; TableFull keeps the old."""
        fresh = Table(name, entries)
        others = sum(len(table) for table in self if table.name != name)
        if others + len(fresh) > self._limit:
            raise TableFull(f"{others + len(fresh)} entries are more than the limit of {self._limit}")
        self._tables[name] = fresh

    def check_room(self, more: int) -> None:
        """Raise TableFull where `more` entries do not fit."""
        count = sum(len(table) for table in self)
        if count + more > self._limit:
            raise TableFull(f"{count + more} entries are more than the limit of {self._limit}")

    def sizes(self) -> Mapping[str, int]:
        """Return how many entries each table has."""
        return {table.name: len(table) for table in self}


def _key(network: Network) -> tuple[int, int, int]:
    return network.version, network.prefixlen, int(network.network_address)
