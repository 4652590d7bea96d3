"""What the statements of pf.conf say, as data: options, tables, and rules with their conditions."""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from gatepost.gate.prefix import Prefix
from gatepost.gate.settings import RateSettings
from gatepost.gate.table import Entry

PFLOG: Final = "pflog0"
SPAMD_PORT: Final = 8025
PORT_MAX: Final = 65_535
Ports = tuple[tuple[int, int], ...]
"""Ranges of ports, both ends included."""
ALL_PORTS: Final[Ports] = ((0, PORT_MAX),)


class Action(Enum):
    """What a rule does with what it matches."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    BLOCK = "block"
    MATCH = "match"


class Heed(Enum):
    """How much of a statement counts here."""

    MAPPED = "mapped"
    IGNORED = "ignored"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Remark:
    """What becomes of one statement, and why."""

    file: Path
    line: int
    heed: Heed
    statement: str
    why: str


@dataclass(frozen=True, slots=True)
class Within:
    """Addresses of some networks."""

    networks: tuple[Prefix, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class InTable:
    """Members of a table."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Own:
    """Our own addresses: `(egress)`, an interface, `self`."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Routed:
    """`urpf-failed` and `no-route`: what only the kernel sees; no connection that was accepted is one."""

    word: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """A host's name, an interface's network, a route's label: not known here."""

    name: str
    negated: bool = False


Host = Within | InTable | Own | Routed | Named
"""Whom a rule is for; no host at all is everybody."""


@dataclass(frozen=True, slots=True)
class Interface:
    """`on egress`, `on !em1`."""

    name: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Redirect:
    """`rdr-to` or `divert-to`: to which address, and which port (0: the same)."""

    address: str
    port: int
    network: Prefix | None


@dataclass(frozen=True, slots=True)
class Limits:
    """A rule's limits, as settings.

    `flush`: cut the source's connections when it is put into the overload table; `everywhere`: those of other
    rules too.
    """

    rate: RateSettings
    flush: bool = False
    everywhere: bool = False

    @property
    def total(self) -> int:
        """Return how many connections all sources may have together (`max`); 0 is no limit."""
        return self.rate.total

    @property
    def any(self) -> bool:
        """Tell whether there is any limit."""
        return bool(self.total or self.rate.connections or self.rate.count)


@dataclass(frozen=True, slots=True)
class Rule:
    """One pass, block or match rule; lists stand for each of their items, as if each had a rule of its own."""

    file: Path
    line: int
    text: str
    action: Action
    quick: bool = False
    direction: str = ""
    log: str = ""
    interfaces: tuple[Interface, ...] = ()
    family: int = 0
    protocols: frozenset[str] = frozenset()
    sources: tuple[Host, ...] = ()
    source_ports: Ports = ALL_PORTS
    targets: tuple[Host, ...] = ()
    ports: Ports = ALL_PORTS
    syn: bool = True
    """The packet that opens a connection matches `flags`."""
    limits: Limits | None = None
    redirect: Redirect | None = None
    unknown: tuple[str, ...] = ()
    """Conditions that nobody here can ask: the rule is not applied."""
    idle: tuple[str, ...] = ()
    """Options that mean nothing here."""


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """A `table <name>` statement."""

    name: str
    line: int
    persist: bool = False
    const: bool = False
    files: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()


@dataclass(slots=True)
class Conf:
    """All that a pf.conf says."""

    file: Path
    tables: dict[str, DeclaredTable] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)
    """Interfaces of `set skip on`."""
    skip_line: int = 0
    table_entries: int | None = None
    included: int = 0
    """Files that were included."""
    macros: dict[str, str] = field(default_factory=dict)
