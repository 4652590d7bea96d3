"""Filter rules as bgpd has them, compiled for one neighbour: which routes are taken, and into which table.

Rules are asked in their order. The last `allow` or `deny` that fits decides; the `set` of every rule that fits is
applied, so that a later `set pftable` has the last word, and a path is in one table at the most. `quick` ends it.
OpenBGPD denies since 6.4 what no rule allows, and until then took it: here a rule that sets a table accepts by
itself (`match ... set pftable`, as in the article), unless a `deny` fits. So both old and new configurations fill
their tables.

What a rule says of the path is asked once a path, what it says of the prefix once a prefix: `applying` and
`conclude`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.codec.bgp.types import Path
from gatepost.gate.prefix import WIDTHS, Prefix

COMMUNITY_NAMES: Final = {
    "GRACEFUL_SHUTDOWN": 65_535 << 16,  # RFC 8326
    "BLACKHOLE": 65_535 << 16 | 666,  # RFC 7999
    "NO_EXPORT": 65_535 << 16 | 65_281,  # RFC 1997
    "NO_ADVERTISE": 65_535 << 16 | 65_282,
    "NO_EXPORT_SUBCONFED": 65_535 << 16 | 65_283,
    "NO_PEER": 65_535 << 16 | 65_284,  # RFC 3765
}


ONLY_MATCHES: Final = (
    "no rule allows anything: OpenBGPD since 6.4 would fill no table by these rules; here a match that sets a "
    "table takes what it fits"
)


class Action(Enum):
    """What a rule says of what fits it."""

    ALLOW = "allow"
    DENY = "deny"
    MATCH = "match"


class Named(Enum):
    """Numbers that are known only when a neighbour is."""

    ANY = "*"
    NEIGHBOR_AS = "neighbor-as"
    LOCAL_AS = "local-as"


Number = int | Named


class Peers(Enum):
    """Neighbours by kind."""

    ANY = "any"
    IBGP = "ibgp"
    EBGP = "ebgp"


@dataclass(frozen=True, slots=True)
class Group:
    """The neighbours of a group."""

    name: str


@dataclass(frozen=True, slots=True)
class As:
    """The neighbours of an AS."""

    number: int


Source = Peers | Group | As | str
"""Whom a rule is about; a text is an address."""


@dataclass(frozen=True, slots=True)
class Who:
    """A neighbour, as rules ask for it."""

    address: str
    remote_as: int
    local_as: int
    group: str = ""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prefix lengths from `low` to `high`, or with `outside` all others."""

    low: int
    high: int
    outside: bool = False

    def holds(self, length: int) -> bool:
        """Tell whether a length is one of them."""
        return (self.low <= length <= self.high) is not self.outside


@dataclass(frozen=True, slots=True)
class Within:
    """Prefixes inside a network, of certain lengths."""

    network: Prefix
    lengths: Lengths

    def fits(self, prefix: Prefix) -> bool:
        """Tell whether a prefix is one of them."""
        return (
            prefix.length >= self.network.length
            and self.lengths.holds(prefix.length)
            and self.network.holds(prefix.version, prefix.number)
        )


class AsPart(Enum):
    """Which part of an AS path is asked."""

    ANY = "AS"
    PEER = "peer-as"
    SOURCE = "source-as"
    TRANSIT = "transit-as"


@dataclass(frozen=True, slots=True)
class AsTest:
    """AS numbers in a part of the path: `number` to `last`, or with `outside` any other."""

    part: AsPart
    number: Number
    last: int | None = None
    outside: bool = False

    def fits(self, numbers: Sequence[int], who: Who) -> bool:
        """Tell whether a path, as its AS numbers, has one of them there."""
        low = resolve(self.number, who)
        high = low if self.last is None else self.last
        return any((low <= each <= high) is not self.outside for each in _part(self.part, numbers))


@dataclass(frozen=True, slots=True)
class Community:
    """`65066:42`, each half a number or a name for one."""

    high: Number
    low: Number


@dataclass(frozen=True, slots=True)
class LargeCommunity:
    """`65066:1:42` (RFC 8092)."""

    parts: tuple[Number, Number, Number]


@dataclass(frozen=True, slots=True)
class ExtendedCommunity:
    """Eight octets of which `mask` must be those of `value` (RFC 4360)."""

    value: int
    mask: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Empty conditions fit all; one of `sources`, `within` and `as_tests` must, of communities all."""

    action: Action
    sources: tuple[Source, ...] = (Peers.ANY,)
    quick: bool = False
    within: tuple[Within, ...] = ()
    as_tests: tuple[AsTest, ...] = ()
    longest: int | None = None
    """Fits AS paths with more numbers than this (max-as-len)."""
    communities: tuple[Community, ...] = ()
    large: tuple[LargeCommunity, ...] = ()
    extended: tuple[ExtendedCommunity, ...] = ()
    table: str = ""
    """`set pftable`; empty sets none."""
    where: str = ""
    """File and line, for people."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a route: `table` is empty where it goes into none, `why` is for people."""

    accepted: bool
    table: str
    why: str


UNMATCHED: Final = Outcome(False, "", "no rule accepts it")

_Test = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class _Compiled:
    rule: Rule
    tests: tuple[_Test, ...]


class NeighborFilter:
    """The rules that can fit routes of one neighbour."""

    __slots__ = ("_rules",)

    def __init__(self, rules: Sequence[Rule], who: Who) -> None:
        self._rules = tuple(
            _Compiled(rule, _tests(rule, who))
            for rule in rules
            if any(_comes_from(source, who) for source in rule.sources)
        )

    def applying(self, path: Path) -> tuple[Rule, ...]:
        """Return the rules whose conditions on the path hold, in order, up to one that is quick."""
        found: list[Rule] = []
        for each in self._rules:
            if all(test(path) for test in each.tests):
                found.append(each.rule)
                if each.rule.quick and not each.rule.within:
                    break
        return tuple(found)

    def conclude(self, rules: tuple[Rule, ...], prefix: Prefix | None = None) -> Outcome:
        """Return what `rules` (of `applying`) say; `prefix` is needed where one of them has a condition on it."""
        accepted: bool | None = None
        table, why = "", UNMATCHED.why
        for rule in rules:
            if rule.within and not (prefix and any(each.fits(prefix) for each in rule.within)):
                continue
            if rule.table:
                table = rule.table
            if rule.action is not Action.MATCH:
                accepted = rule.action is Action.ALLOW
            if rule.action is not Action.MATCH or rule.table:
                why = rule.where
            if rule.quick:
                break
        if accepted is None:
            accepted = bool(table)
        elif not accepted:
            return Outcome(False, "", f"denied by {why}")
        return Outcome(True, table, why) if accepted else UNMATCHED


def by_prefix(rules: Sequence[Rule]) -> bool:
    """Tell whether the prefix must be known to conclude."""
    return any(rule.within for rule in rules)


def tables_of(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return the tables that rules fill, in order of first mention."""
    return tuple(dict.fromkeys(rule.table for rule in rules if rule.table))


def only_matches(rules: Sequence[Rule]) -> bool:
    """Tell whether rules fill tables and none of them allows: OpenBGPD from 6.4 on would fill none."""
    return bool(tables_of(rules)) and not any(rule.action is Action.ALLOW for rule in rules)


def any_length(network: Prefix) -> Within:
    """Return a test for all prefixes inside a network (or-longer)."""
    return Within(network, Lengths(network.length, WIDTHS[network.version]))


def resolve(number: Number, who: Who) -> int:
    """Return the number that a name stands for with a neighbour; not for ANY."""
    match number:
        case Named.NEIGHBOR_AS:
            return who.remote_as
        case Named.LOCAL_AS:
            return who.local_as
        case Named.ANY:
            raise ValueError("any number is none")
        case _:
            return number


def _comes_from(source: Source, who: Who) -> bool:
    match source:
        case Peers.ANY:
            return True
        case Peers.IBGP | Peers.EBGP:
            return (who.remote_as == who.local_as) is (source is Peers.IBGP)
        case Group(name=name):
            return who.group == name
        case As(number=number):
            return who.remote_as == number
        case str(address):
            return who.address == address


def _tests(rule: Rule, who: Who) -> tuple[_Test, ...]:
    tests: list[_Test] = [_community_test(each, who) for each in rule.communities]
    tests += [_large_test(each, who) for each in rule.large]
    tests += [_extended_test(each) for each in rule.extended]
    if rule.as_tests:
        tests.append(lambda path: _fits_as_path(rule, path, who))
    if rule.longest is not None:
        longest = rule.longest
        tests.append(lambda path: len(path.as_path) > longest)
    return tuple(tests)


def _fits_as_path(rule: Rule, path: Path, who: Who) -> bool:
    return any(test.fits(path.as_path, who) for test in rule.as_tests)


def _community_test(community: Community, who: Who) -> _Test:
    value, mask = _masked((community.high, community.low), 16, who)
    if mask == 0xFFFFFFFF:
        return lambda path: value in path.communities
    return lambda path: any(each & mask == value for each in path.communities)


def _large_test(community: LargeCommunity, who: Who) -> _Test:
    wanted = [None if part is Named.ANY else resolve(part, who) for part in community.parts]

    def fits(path: Path) -> bool:
        return any(
            all(want is None or want == part for want, part in zip(wanted, each, strict=True))
            for each in path.large_communities
        )

    return fits


def _extended_test(community: ExtendedCommunity) -> _Test:
    return lambda path: any(
        int.from_bytes(each) & community.mask == community.value for each in path.extended_communities
    )


def _masked(parts: Sequence[Number], width: int, who: Who) -> tuple[int, int]:
    """Return the value and the mask of parts of `width` bits, of which some may be any."""
    value = mask = 0
    for part in parts:
        every = (1 << width) - 1
        number = 0 if part is Named.ANY else resolve(part, who)
        if number > every:  # a four-octet AS is in no ordinary community: the test must never hold
            return 1, 0
        value = value << width | number
        mask = mask << width | (0 if part is Named.ANY else every)
    return value, mask


def _part(part: AsPart, numbers: Sequence[int]) -> Sequence[int]:
    match part:
        case AsPart.ANY:
            return numbers
        case AsPart.PEER:
            return numbers[:1]
        case AsPart.SOURCE:
            return numbers[-1:]
        case AsPart.TRANSIT:
            return numbers[:-1]
