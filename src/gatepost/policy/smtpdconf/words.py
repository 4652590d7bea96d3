"""What a smtpd.conf says, in the words of our own settings, and what becomes of each of its statements."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

Value = str | bool | int | tuple[str, ...]
Settings = Mapping[str, Value]


class SmtpdConfError(ValueError):
    """A smtpd.conf that cannot be read: its text names file, line and remedy."""

    def __init__(self, file: Path, line: int, problem: str, remedy: str = "") -> None:
        where = f"{file}:{line}" if line else f"{file}"
        super().__init__(f"{where}: {problem}" + (f" ({remedy})" if remedy else ""))
        self.file = file
        self.line = line
        self.problem = problem


class Heed(Enum):
    """What becomes of a statement here."""

    MAPPED = "mapped"
    """A setting says the same."""
    CHANGED = "changed"
    """A setting says nearly the same; the remark tells the difference."""
    IGNORED = "ignored"
    """It has no meaning here."""
    UNSUPPORTED = "unsupported"
    """It would have a meaning, and no setting says it."""


class Undecided(Exception):
    """A rule, an action or a listener that no setting can say: the operator must decide. Its text is why."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing to know of a statement."""

    heed: Heed
    why: str


@dataclass(frozen=True, slots=True)
class Remark:
    """What becomes of one statement, and why; `statement` never shows a secret."""

    file: Path
    line: int
    heed: Heed
    statement: str
    why: str


@dataclass(frozen=True, slots=True)
class ActionWords:
    """An action as settings of `[policy.actions.NAME]`; `undecided` says why there are none."""

    settings: Settings
    undecided: str = ""


@dataclass(frozen=True, slots=True)
class RuleWords:
    """A rule: its conditions as `match` has them, and the name of its action."""

    file: Path
    line: int
    match: Settings
    action: str
    undecided: str = ""


@dataclass(frozen=True, slots=True)
class ListenerWords:
    """One listener as settings of `[listen.NAME]`."""

    kind: str
    address: tuple[str, ...]
    port: int
    tag: str = ""


@dataclass(slots=True)
class Certificate:
    """The files of one pki entry."""

    line: int
    certificate: str = ""
    key: str = ""


@dataclass(slots=True)
class Found:
    """Everything that a smtpd.conf says; filled statement by statement."""

    file: Path
    remarks: list[Remark] = field(default_factory=list)
    settings: dict[str, dict[str, Value]] = field(default_factory=dict)
    """Single settings by section: `{"intake": {"max_size": "50M"}}`."""
    tables: dict[str, dict[str, object]] = field(default_factory=dict)
    declared: dict[str, Remark] = field(default_factory=dict)
    """The statement of each table; what becomes of it shows only when all that uses it was read."""
    used: set[str] = field(default_factory=set)
    """Tables that rules or actions name."""
    secrets: set[str] = field(default_factory=set)
    """Tables that only credentials are looked up in."""
    certificates: dict[str, Certificate] = field(default_factory=dict)
    first_certificate: str = ""
    listeners: list[ListenerWords] = field(default_factory=list)
    undecided_listeners: list[tuple[int, str]] = field(default_factory=list)
    actions: dict[str, ActionWords] = field(default_factory=dict)
    rules: list[RuleWords] = field(default_factory=list)
    old: bool = False
    """The grammar before 6.4 was met: accept and reject."""
    new: bool = False
    """The grammar since 6.4 was met: action and match."""

    def copied(self, name: str) -> bool:
        """Tell whether a table becomes one of ours: never one of passwords, nor a mapping that nobody uses."""
        table = self.tables[name]
        return name in self.used or (name not in self.secrets and bool(table) and "entries" not in table)
