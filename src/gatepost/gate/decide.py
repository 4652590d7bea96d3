"""Which of the article's rules decides about a new connection: its table, as data.

The first rule that matches decides, as with PF's `quick`. White tables stand before the lists on port 25, and
have no say on the submission ports, where a listed host meets the tarpit too. Tables hold both families, so a
listed IPv6 host is held as well; the article's redirection to 127.0.0.1 knew IPv4 alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from gatepost.gate.prefix import WIDTHS, Prefix, number_of
from gatepost.gate.settings import GateSettings, Ipv6
from gatepost.gate.table import Tables

BRUTEFORCE: Final = "bruteforce"
BYPASS: Final = "bgp_spamd_bypass"
LISTED: Final = "bgp_spamd"
WHITE: Final = "spamd-white"
SPAMD: Final = "spamd"
NOSPAMD: Final = "nospamd"
GREYTRAP: Final = "spamd-greytrap"
TABLE_NAMES: Final = (BRUTEFORCE, BYPASS, LISTED, WHITE, SPAMD, NOSPAMD, GREYTRAP)
BLACK_TABLES: Final = (LISTED, SPAMD)

MX: Final = "mx"
SUBMISSION: Final = frozenset(("submission", "submissions"))
_MX: Final = frozenset((MX,))


class Verdict(Enum):
    """What becomes of a connection."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    GREY = "grey"
    BLACK = "black"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the rule that gave it, and the lists that the source is on.

    `messages`: what a black client is told, where the lists have none of their own.
    """

    verdict: Verdict
    rule: str
    lists: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: for which listeners (None: all), for members of which tables (none: everybody), and what then."""

    name: str
    kinds: frozenset[str] | None
    tables: tuple[str, ...]
    verdict: Verdict


RULES: Final = (
    Rule("block quick from <bruteforce>", None, (BRUTEFORCE,), Verdict.BLOCK),
    Rule("pass from white tables to smtp", _MX, (BYPASS, NOSPAMD, WHITE), Verdict.PASS),
    Rule("rdr-to spamd from lists to smtp, submission, smtps", _MX | SUBMISSION, BLACK_TABLES, Verdict.BLACK),
    # spamd's own lists, not PF's tables: they are met on port 25 alone, and beside the others only in messages.
    Rule("rdr-to spamd from any to smtp, listed", _MX, (GREYTRAP,), Verdict.BLACK),
    Rule("rdr-to spamd from any to smtp", _MX, (), Verdict.GREY),
    Rule("pass from any", None, (), Verdict.PASS),
)
_EXEMPT: Final = Decision(Verdict.PASS, "exempt: set skip on lo")


class Membership(Protocol):
    """What a decision asks of the tables; `lists` are spamd's, in their order, without that of its traps."""

    @property
    def lists(self) -> Sequence[str]: ...
    def holds(self, table: str, version: int, number: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Look:
    """One rule that was looked at on the way to a decision, and why it did or did not match."""

    rule: str
    matched: bool
    why: str


def decide(ip: str, kind: str, tables: Membership, settings: GateSettings, exempt: Sequence[Prefix]) -> Decision:
    """Return what becomes of a connection from `ip` to a listener of `kind`."""
    version, number = number_of(ip)
    if any(network.holds(version, number) for network in exempt):
        return _EXEMPT
    for rule in RULES:
        if rule.kinds is not None and kind not in rule.kinds:
            continue
        if not rule.tables:
            return _for_anybody(rule, version, settings)
        lists = _lists_of(rule, kind, tables, version, number)
        if lists:
            return _listed(rule, lists)
    raise AssertionError("the last rule is for everybody")


class Plan:
    """The same decision for one kind of listener, made ready: the tables at hand, the answers made before."""

    __slots__ = ("_answers", "_anybody", "_exempt", "_kind", "_rules", "_tables")

    def __init__(
        self, kind: str, tables: Tables, lists: Sequence[str], settings: GateSettings, exempt: Sequence[Prefix]
    ) -> None:
        """Take the tables as they are now; make another plan when their version is another."""
        here = _Here(tables, lists)
        last = next(rule for rule in RULES if not rule.tables and (rule.kinds is None or kind in rule.kinds))
        self._tables = here
        self._anybody = {version: _for_anybody(last, version, settings) for version in WIDTHS}
        self._exempt = {
            version: tuple(
                (WIDTHS[version] - each.length, each.number >> WIDTHS[version] - each.length)
                for each in exempt
                if each.version == version
            )
            for version in WIDTHS
        }
        self._kind = kind
        self._rules = tuple(
            (tables[name].holds, rule)
            for rule in RULES
            if rule.tables and (rule.kinds is None or kind in rule.kinds)
            for name in _tables_of(rule, here)
            if name in tables and tables[name].filled
        )
        self._answers: dict[tuple[str, tuple[str, ...]], Decision] = {}

    def decide(self, version: int, number: int) -> Decision:
        """Return what becomes of a connection from an address, as `decide` does."""
        for shift, network in self._exempt[version]:
            if number >> shift == network:
                return _EXEMPT
        for holds, rule in self._rules:
            if holds(version, number):
                return self._listed(rule, version, number)
        return self._anybody[version]

    def _listed(self, rule: Rule, version: int, number: int) -> Decision:
        lists = _lists_of(rule, self._kind, self._tables, version, number)
        key = rule.name, lists
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = _listed(rule, lists)
        return found


@dataclass(frozen=True, slots=True)
class _Here:
    """The tables of a plan, as `Membership`."""

    tables: Tables
    lists: Sequence[str]

    def holds(self, table: str, version: int, number: int) -> bool:
        return table in self.tables and self.tables[table].holds(version, number)


def explain(
    ip: str, kind: str, tables: Membership, settings: GateSettings, exempt: Sequence[Prefix]
) -> tuple[Look, ...]:
    """Return every rule that was looked at; the last one decided."""
    version, number = number_of(ip)
    decision = decide(ip, kind, tables, settings, exempt)
    if decision == _EXEMPT:
        return (Look("set skip on lo", True, f"{ip} is exempt"),)
    looks: list[Look] = []
    for rule in RULES:
        if rule.kinds is not None and kind not in rule.kinds:
            looks.append(Look(rule.name, False, f"not for {kind}"))
        elif not rule.tables:
            return (*looks, Look(decision.rule, True, f"for everybody: {decision.verdict.value}"))
        elif any(tables.holds(name, version, number) for name in _tables_of(rule, tables)):
            return (*looks, Look(rule.name, True, f"in {', '.join(decision.lists)}: {decision.verdict.value}"))
        else:
            looks.append(Look(rule.name, False, f"not in {', '.join(_tables_of(rule, tables))}"))
    raise AssertionError("the last rule is for everybody")


def _lists_of(rule: Rule, kind: str, tables: Membership, version: int, number: int) -> tuple[str, ...]:
    """Return the tables by which a rule matches; on port 25 with spamd's own lists, that of its traps last."""
    names = _tables_of(rule, tables)
    lists = [name for name in names if tables.holds(name, version, number)]
    if lists and rule.verdict is Verdict.BLACK and kind == MX and rule.tables != (GREYTRAP,):
        lists += [name for name in (*tables.lists, GREYTRAP) if tables.holds(name, version, number)]
    return tuple(lists)


def _listed(rule: Rule, lists: tuple[str, ...]) -> Decision:
    return Decision(rule.verdict, f"{rule.name}: in {', '.join(lists)}", lists)


def _tables_of(rule: Rule, tables: Membership) -> Sequence[str]:
    return (*tables.lists, GREYTRAP) if rule.tables == (GREYTRAP,) else rule.tables


def _for_anybody(rule: Rule, version: int, settings: GateSettings) -> Decision:
    if rule.verdict is not Verdict.GREY:
        return Decision(rule.verdict, rule.name)
    if version == 6 and settings.unlisted_ipv6 is Ipv6.BYPASS:
        return Decision(Verdict.PASS, "pass inet6 from any to smtp: ipv6 = bypass")
    if version == 6 and settings.unlisted_ipv6 is Ipv6.BLOCK:
        return Decision(Verdict.BLOCK, "block inet6 from any to smtp: ipv6 = block")
    if not settings.greylist:
        return Decision(Verdict.PASS, "pass from any to smtp: greylist = false")
    return Decision(rule.verdict, rule.name)
