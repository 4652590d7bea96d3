"""Tables: the lists and mappings that rules look things up in, from the configuration or from a file.

A file has one entry a line; `#` begins a comment. A line with a key and a value (`key: value` or `key value`) makes
the table a mapping, as in smtpd (table(5)); a line that is a network never does, although IPv6 has colons. An empty
file is an empty table: nothing matches, and the operator is warned.

The same table can be looked at in four ways:

    domains    `example.org`, `*.example.org`           the domain of an address
    networks   `192.0.2.0/24`, `2001:db8::/32`          the client's address
    addresses  `user@domain`, `@domain`, `user`, `<>`   a sender or a recipient; `*` in the domain is a wildcard
    mapping    key and value                            aliases, virtual users, credentials
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final, Protocol

from gatepost.base.address import ReversePath, fold, fold_domain
from gatepost.base.settings import BadSetting

FILE_MAX: Final = 64 * 1024 * 1024  # octets; a million addresses fit
INCLUDE_DEPTH: Final = 5
_SEPARATOR: Final = re.compile(r"[ \t]*(?::[ \t]*|[ \t]+)")
NULL_SENDER: Final = "<>"


@dataclass(frozen=True, slots=True)
class TableSettings:
    """One table: `[policy.tables.NAME]`; its entries come from exactly one place."""

    file: str = ""
    """The path of a file with one entry a line."""

    values: tuple[str, ...] = ()
    """A list written here."""

    entries: Mapping[str, str] = field(default_factory=dict)
    """A mapping written here; several values of one key are separated by commas."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.file, self.values, self.entries))) > 1:
            raise ValueError("give one of file, values and entries")


class Warn(Protocol):
    """Where a warning to the operator goes."""

    def __call__(self, event: str, **fields: object) -> object: ...


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it was read: pairs of a key and a value, the value None in a list."""

    name: str
    items: tuple[tuple[str, str | None], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the entries of a list, the keys of a mapping."""
        return tuple(key for key, _ in self.items)

    def domains(self) -> "DomainList":
        """Look at it as a list of domains."""
        return DomainList(self.keys)

    def networks(self) -> "Networks":
        """Look at it as a list of addresses and networks; raises BadSetting."""
        try:
            return Networks(self.keys)
        except ValueError as wrong:
            raise BadSetting((self.name,), str(wrong), "write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32") from wrong

    def addresses(self) -> "AddressList":
        """Look at it as a list of mail addresses."""
        return AddressList(self.keys)

    def mapping(self) -> Mapping[str, tuple[str, ...]]:
        """Look at it as a mapping: the key's ASCII letters lowered, the values split at commas."""
        found: dict[str, tuple[str, ...]] = {}
        for key, value in self.items:
            values = split_values(value or "")
            if not values:
                raise BadSetting((self.name,), f"{key!r} has no value", f"write `{key}: user`")
            found[fold(key)] = found.get(fold(key), ()) + values
        return found

    def plain(self) -> Mapping[str, str]:
        """Look at it as keys with one value each, both as written (credentials)."""
        return {key: value or "" for key, value in self.items}


class DomainList:
    """Domains, some with wildcards."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, names: Iterable[str]) -> None:
        names = tuple(names)
        self._exact = frozenset(fold_domain(name) for name in names if "*" not in name)
        self._patterns = tuple(_pattern(fold(name)) for name in names if "*" in name)

    def __contains__(self, domain: str) -> bool:
        domain = fold_domain(domain)
        return domain in self._exact or any(pattern.fullmatch(domain) for pattern in self._patterns)


class Networks:
    """Addresses and networks of both families; the word `local` stands for loopback."""

    __slots__ = ("_networks",)

    def __init__(self, texts: Iterable[str]) -> None:
        """Read them; ValueError names the one that is none."""
        networks: list[IPv4Network | IPv6Network] = []
        for text in texts:
            if text == "local":
                networks += (ip_network("127.0.0.0/8"), ip_network("::1/128"))
            else:
                networks.append(read_network(text))
        self._networks = tuple(networks)

    def __contains__(self, ip: str) -> bool:
        try:
            address = ip_address(ip)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


class AddressList:
    """Mail addresses, whole domains, and local parts at any domain."""

    __slots__ = ("_domains", "_exact", "_locals", "_null", "_patterns")

    def __init__(self, texts: Iterable[str]) -> None:
        exact, domains, locals_ = set(), set(), set()
        patterns: list[tuple[str, str]] = []
        self._null = False
        for text in texts:
            local, at, domain = text.rpartition("@")
            if text == NULL_SENDER:
                self._null = True
            elif not at:
                locals_.add(fold(text))
            elif "*" in domain:
                patterns.append((fold(domain), fold(local)))
            elif local:
                exact.add(f"{fold(local)}@{fold_domain(domain)}")
            else:
                domains.add(fold_domain(domain))
        self._exact, self._domains, self._locals = frozenset(exact), frozenset(domains), frozenset(locals_)
        self._patterns = tuple((_pattern(domain), local) for domain, local in patterns)

    def __contains__(self, address: ReversePath) -> bool:
        if address is None:
            return self._null
        local, domain = fold(address.local), fold_domain(address.domain)
        if f"{local}@{domain}" in self._exact or domain in self._domains or local in self._locals:
            return True
        return any(wanted in ("", local) and found.fullmatch(domain) for found, wanted in self._patterns)


def load_table(name: str, settings: TableSettings, warn: Warn | None = None) -> Table:
    """Read a table; raises BadSetting with the path of the file and what to do about it."""
    if settings.file:
        items = _read_file(name, Path(settings.file), INCLUDE_DEPTH)
        if not items and warn is not None:
            warn("table_empty", table=name, file=settings.file)
        return Table(name, items)
    if settings.entries:
        return Table(name, tuple(settings.entries.items()))
    return Table(name, tuple((value, None) for value in settings.values))


def read_network(text: str) -> IPv4Network | IPv6Network:
    """Read an address or a network; ValueError when it is none."""
    bare = text.removeprefix("ipv6:").removeprefix("IPv6:").strip("[]")
    if "%" in bare:
        raise ValueError(f"{text!r} is not an address or a network")
    try:
        return ip_network(bare, strict=False)
    except ValueError as wrong:
        raise ValueError(f"{text!r} is not an address or a network") from wrong


def split_values(text: str) -> tuple[str, ...]:
    """Split the values of a key at commas that are not inside quotes or an `error:` text."""
    if text.strip().startswith("error:"):
        return (text.strip(),)
    parts, quoted, start = [], False, 0
    for at, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    return tuple(part for part in parts if part)


def _read_file(name: str, path: Path, depth: int) -> tuple[tuple[str, str | None], ...]:
    if depth == 0:
        raise BadSetting((name,), f"{path}: :include: nests deeper than {INCLUDE_DEPTH} files")
    try:
        with path.open("rb") as file:
            octets = file.read(FILE_MAX + 1)
    except OSError as error:
        raise BadSetting(
            (name,), f"{path}: {error.strerror or error}", f"create the file (it may be empty): touch {path}"
        ) from error
    if len(octets) > FILE_MAX:
        raise BadSetting((name,), f"{path}: larger than {FILE_MAX >> 20} MiB")
    try:
        lines = octets.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BadSetting((name,), f"{path}: not UTF-8 at octet {error.start}", "save the file as UTF-8") from error
    return _items(name, path, lines, depth)


def _items(name: str, path: Path, lines: list[str], depth: int) -> tuple[tuple[str, str | None], ...]:
    items: list[tuple[str, str | None]] = []
    mapping: bool | None = None
    for number, line in enumerate(lines, 1):
        text = _uncommented(line).strip(" \t\r")
        if not text:
            continue
        key, value = _split(text)
        if mapping is None:
            mapping = value is not None
        elif mapping is not (value is not None):
            kind = "a mapping: give it a value" if mapping else "a list: no value belongs there"
            raise BadSetting((name,), f"{path} line {number}: the first entry makes this {kind}")
        if value is not None and ":include:" in value:
            value = ", ".join(_included(name, each, depth) for each in split_values(value))
        items.append((key, value))
    return tuple(items)


def _included(name: str, value: str, depth: int) -> str:
    if not value.startswith(":include:"):
        return value
    return ", ".join(key for key, _ in _read_file(name, Path(value[9:]), depth - 1))


def _uncommented(line: str) -> str:
    """Cut a comment: a `#` at the beginning or after a blank, since a local part may hold one."""
    if line.lstrip(" \t").startswith("#"):
        return ""
    found = re.search(r"[ \t]#", line)
    return line if found is None else line[: found.start()]


def _split(text: str) -> tuple[str, str | None]:
    try:
        read_network(text)
    except ValueError:
        pass
    else:
        return text, None
    found = _SEPARATOR.search(text)
    if found is None:
        return text, None
    return text[: found.start()], text[found.end() :]


def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern in which `*` stands for anything; other letters stand for themselves."""
    return re.compile(translate(text.replace("[", "[[]").replace("?", "[?]")))
