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

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Final

from gatepost.base.address import ReversePath, fold, fold_domain
from gatepost.base.settings import BadSetting
from gatepost.base.units import Seconds
from gatepost.codec.berkeleydb import BadDatabase, pairs
from gatepost.policy.tables.include import INCLUDE, included, uncommented
from gatepost.policy.tables.kind import Kind, check_entry, read_network
from gatepost.policy.tables.lookup import Warn
from gatepost.policy.tables.target import split_values

FILE_MAX: Final = 64 * 1024 * 1024  # octets; a million addresses fit
_MADE_BY: Final = b"YP_"
"""What Postfix and Sendmail note in such a file beside its entries."""
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

    db: str = ""
    """The path of a file that makemap or newaliases made (Berkeley DB), `/etc/mail/aliases.db`."""

    sql: str = ""
    """A database or a directory that is asked: `sqlite:///path`, `postgresql://user@host/database`,
    `mysql://user@host/database`, or `ldaps://host/base?attribute`."""

    query: str = ""
    """sql: the query for every use, `SELECT target FROM aliases WHERE address = :key`, or a directory's filter,
    `(mailAlternateAddress=:key)`; `:local` and `:domain` are the parts of an address. It returns a row for each
    value."""

    queries: Mapping[str, str] = field(default_factory=dict)
    """sql: a query for each use by its kind, `queries.domain = "SELECT 1 FROM domains WHERE name = :key"`."""

    cache: Seconds = Seconds(10)
    """sql: how long an answer holds; 0 asks each time."""

    timeout: Seconds = Seconds(5)
    """sql: how long an answer is waited for; then the sender is told to come back."""

    kind: Kind | None = None
    """What it holds: `aliases`, `virtual`, `domain`, `credentials`, `netaddr`, `userinfo`, `mailaddr`, `addrname`
    or `source`. Each entry is checked when the table is read; rules and actions that use it say the kind too."""

    programs: bool = False
    """Let its values start programs (`|command`) and write files (`/path`, `maildir:/path`). Whoever can write the
    table can then do so."""

    user: str = "nobody"
    """The user that its programs and files belong to; never root. A server that is not root itself can be its own
    user only, and must be told so here."""

    shell: bool = False
    """Give its commands to /bin/sh; else they are a program and its arguments."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.file, self.db, self.sql, self.values, self.entries))) > 1:
            raise ValueError("give one of file, db, sql, values and entries")
        if bool(self.sql) is not bool(self.query or self.queries):
            raise ValueError("sql needs a query, or queries, and they need it")
        if self.user in ("root", "0", ""):
            raise ValueError("user: programs never run as root")
        if self.shell and not self.programs:
            raise ValueError("shell needs programs = true")


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
            found[fold(key)] = found.get(fold(key), ()) + split_values(value or "")
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


def load_table(name: str, settings: TableSettings, warn: Warn | None = None, kinds: Collection[Kind] = ()) -> Table:
    """Read a table; raises BadSetting with the path of the file, the line, and what to do about it.

    `kinds` are what the table is used as, besides the kind that its settings name.
    """
    check = _Check(frozenset(kinds) | ({settings.kind} if settings.kind else set()), settings.programs)
    if settings.file or settings.db:
        read = _read_file if settings.file else _read_db
        items = read(name, Path(settings.file or settings.db), check)
        if not items and warn is not None:
            warn("table_empty", table=name, file=settings.file or settings.db)
        return Table(name, items)
    given: Iterable[tuple[str, str | None]] = settings.entries.items()
    if not settings.entries:
        given = ((value, None) for value in settings.values)
    try:
        return Table(name, tuple(check.entry(key, value, ()) for key, value in given))
    except ValueError as wrong:
        raise BadSetting((name,), str(wrong)) from wrong


@dataclass(frozen=True, slots=True)
class _Check:
    """What an entry must be, and what it is once its files are included."""

    kinds: Collection[Kind]
    programs: bool

    def entry(self, key: str, value: str | None, owners: Collection[int]) -> tuple[str, str | None]:
        """Return an entry with its files included; raises ValueError."""
        if value is not None and INCLUDE in value:
            value = ", ".join(included(split_values(value), (0, os.geteuid(), *owners)))
        for kind in self.kinds:
            check_entry(kind, key, value, programs=self.programs)
        return key, value


def _read_file(name: str, path: Path, check: _Check) -> tuple[tuple[str, str | None], ...]:
    octets, owner = _octets(name, path, f"create the file (it may be empty): touch {path}")
    try:
        lines = octets.decode().split("\n")
    except UnicodeDecodeError as error:
        raise BadSetting((name,), f"{path}: not UTF-8 at octet {error.start}", "save the file as UTF-8") from error
    items = []
    for number, key, value in _entries(name, path, lines):
        try:
            items.append(check.entry(key, value, (owner,)))
        except ValueError as wrong:
            raise BadSetting((name,), f"{path} line {number}: {wrong}") from wrong
    return tuple(items)


def _read_db(name: str, path: Path, check: _Check) -> tuple[tuple[str, str | None], ...]:
    octets, owner = _octets(name, path, f"make it: makemap {path.with_suffix('')}, or name the text: file = ...")
    items = []
    try:
        for key, value in pairs(octets):
            if not key.startswith(_MADE_BY):
                items.append(check.entry(*_made(key, value), (owner,)))
    except BadDatabase as wrong:
        raise BadSetting((name,), f"{path}: {wrong}", "make it anew, or name the text: file = ...") from wrong
    except ValueError as wrong:
        raise BadSetting((name,), f"{path}: {wrong}") from wrong
    return tuple(items)


def _made(key: bytes, value: bytes) -> tuple[str, str | None]:
    """Read an entry as makemap writes it, with a NUL at the end; a set has `<set>` for values."""
    text = value.rstrip(b"\0").decode()
    return key.rstrip(b"\0").decode(), None if text == "<set>" else text


def _octets(name: str, path: Path, remedy: str) -> tuple[bytes, int]:
    """Return a file's octets and its owner."""
    try:
        with path.open("rb") as file:
            owner = os.fstat(file.fileno()).st_uid
            octets = file.read(FILE_MAX + 1)
    except OSError as error:
        raise BadSetting((name,), f"{path}: {error.strerror or error}", remedy) from error
    if len(octets) > FILE_MAX:
        raise BadSetting((name,), f"{path}: larger than {FILE_MAX >> 20} MiB")
    return octets, owner


def _entries(name: str, path: Path, lines: Iterable[str]) -> Iterator[tuple[int, str, str | None]]:
    """Yield line number, key and value of each entry; the first says whether it is a list or a mapping."""
    mapping: bool | None = None
    for number, line in enumerate(lines, 1):
        text = uncommented(line).strip(" \t\r")
        if not text:
            continue
        key, value = _split(text)
        if mapping is None:
            mapping = value is not None
        elif mapping is not (value is not None):
            kind = "a mapping: give it a value" if mapping else "a list: no value belongs there"
            raise BadSetting((name,), f"{path} line {number}: the first entry makes this {kind}")
        yield number, key, value


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
