"""Read and write one filter rule of bgpd.conf.

    allow|deny|match [quick] from WHOM [conditions] [set { ... }]

A condition that is not understood is an error: without it the rule would fit more than it says.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import Final, TypeVar

from gatepost.feeds.bgp.filter import (
    COMMUNITY_NAMES,
    Action,
    As,
    AsPart,
    AsTest,
    Community,
    ExtendedCommunity,
    Group,
    LargeCommunity,
    Lengths,
    Named,
    Number,
    Peers,
    Rule,
    Source,
    Within,
)
from gatepost.feeds.bgp.settings import AS_MAX, TABLE_NAME
from gatepost.feeds.bgp.words import END, Words
from gatepost.gate.prefix import WIDTHS, Prefix, parse_prefix

T = TypeVar("T")

Remarked = Callable[[int, str, str], None]
"""Told of a part that was left out: its line, its text and why."""

_ASDOT: Final = re.compile(r"([0-9]{1,5})\.([0-9]{1,5})")
_RANGE: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
_EXT_SUBTYPES: Final = {"rt": 0x02, "soo": 0x03, "odi": 0x05, "bdc": 0x08, "srcas": 0x09, "l2vid": 0x0A}
_EVERY: Final = (1 << 64) - 1
_IDLE_SETS: Final = {  # and how many words follow
    "localpref": 1,
    "med": 1,
    "metric": 1,
    "weight": 1,
    "rtlabel": 1,
    "nexthop": 1,
    "origin": 1,
    "prepend-self": 1,
    "prepend-neighbor": 1,
    "as-override": 0,
}


@dataclass(slots=True)
class Sets:
    """The named sets that rules may use."""

    prefixes: dict[str, list[Within]] = field(default_factory=dict)
    numbers: dict[str, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Draft:
    """A rule while it is read."""

    sources: list[Source] = field(default_factory=list)
    within: list[Within] = field(default_factory=list)
    as_tests: list[AsTest] = field(default_factory=list)
    communities: list[Community] = field(default_factory=list)
    large: list[LargeCommunity] = field(default_factory=list)
    extended: list[ExtendedCommunity] = field(default_factory=list)
    longest: int | None = None
    table: str = ""


def read_rule(words: Words, sets: Sets, where: str, remark: Remarked | None = None) -> Rule | None:
    """Read a rule from its action on, up to the end of its line; None for one about what is announced."""
    line = words.peek().line
    action = _action(words)
    quick = words.skip("quick")
    if words.skip("to"):
        if remark:
            remark(line, f"{action.value} to {words.rest()}", "nothing is ever announced")
        return None
    if not words.skip("from"):
        raise words.error("the rule names no neighbours", "write from any, an address, group NAME or AS N")
    draft = _Draft()
    words.listed(lambda: draft.sources.append(_source(words)))
    while words.peek().quoted or words.peek().text not in (END, "", "set"):
        _condition(words, draft, sets)
    if words.skip("set"):
        words.listed(lambda: _set(words, draft, remark))
    return Rule(
        action,
        tuple(draft.sources),
        quick,
        tuple(draft.within),
        tuple(draft.as_tests),
        draft.longest,
        tuple(draft.communities),
        tuple(draft.large),
        tuple(draft.extended),
        draft.table,
        where,
    )


def read_within(words: Words) -> Within:
    """Read `10.0.0.0/8 prefixlen >= 24` and its kin."""
    line = words.peek().line
    text = words.value("a prefix")
    try:
        network = parse_prefix(text)
        if "/" not in text:
            raise ValueError("no length")
    except ValueError:
        raise words.error(f"{text!r} is no prefix", "write it with its length: 192.0.2.0/24", line=line) from None
    width = WIDTHS[network.version]
    if words.skip("or-longer"):
        return Within(network, Lengths(network.length, width))
    if words.skip("maxlen"):
        return Within(network, Lengths(network.length, words.number("maxlen", width)))
    if words.skip("prefixlen"):
        return Within(network, _lengths(words, width))
    return Within(network, Lengths(network.length, network.length))


def as_number(words: Words) -> int:
    """Read an AS number, plain or as 1.10 (RFC 5396)."""
    line = words.peek().line
    text = words.value("an AS number")
    if found := _ASDOT.fullmatch(text):
        high, low = int(found[1]), int(found[2])
        if high <= 0xFFFF and low <= 0xFFFF:
            return high << 16 | low
    elif re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= AS_MAX:
        return int(text)
    raise words.error(f"{text!r} is no AS number", "it is a number such as 65066, or 1.10", line=line)


def read_community(text: str) -> Community:
    """Read `65066:42`, `*:42` or `NO_EXPORT`; raises ValueError."""
    if (known := COMMUNITY_NAMES.get(text.upper())) is not None:
        return Community(known >> 16, known & 0xFFFF)
    parts = text.split(":")
    if len(parts) != 2:
        raise ValueError(f"{text!r} is no community: it is a number, a colon and a number, as 65066:42")
    high, low = (_half(part, 0xFFFF) for part in parts)
    return Community(high, low)


def read_large_community(text: str) -> LargeCommunity:
    """Read `65066:1:42`, where parts may be `*`; raises ValueError."""
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"{text!r} is no large community: it is three numbers with colons, as 65066:1:42")
    one, two, three = (_half(part, AS_MAX) for part in parts)
    return LargeCommunity((one, two, three))


def community_text(community: Community | LargeCommunity) -> str:
    """Write a community, ordinary or large."""
    match community:
        case Community(high=high, low=low):
            return f"{_number_text(high)}:{_number_text(low)}"
        case LargeCommunity(parts=parts):
            return ":".join(map(_number_text, parts))


def rule_text(rule: Rule) -> str:
    """Write a rule as it stands in bgpd.conf; sets are written out."""
    words = [rule.action.value, *(("quick",) if rule.quick else ()), "from"]
    words.append(_braced([_source_text(each) for each in rule.sources]))
    if rule.within:
        words += ["prefix", _braced([_within_text(each) for each in rule.within])]
    if rule.as_tests:
        words.append(_braced([_as_test_text(each) for each in rule.as_tests]))
    if rule.longest is not None:
        words.append(f"max-as-len {rule.longest}")
    words += [f"community {community_text(each)}" for each in rule.communities]
    words += [f"large-community {community_text(each)}" for each in rule.large]
    words += [f"ext-community {_extended_text(each)}" for each in rule.extended]
    if rule.table:
        words.append(f'set pftable "{rule.table}"')
    return " ".join(words)


def _action(words: Words) -> Action:
    line = words.peek().line
    text = words.value("allow, deny or match")
    try:
        return Action(text)
    except ValueError:
        raise words.error(f"{text!r} is none of allow, deny and match", line=line) from None


def _source(words: Words) -> Source:
    line = words.peek().line
    if words.skip("group"):
        return Group(words.value("the name of the group"))
    if words.skip("AS"):
        return As(as_number(words))
    text = words.value("a neighbour")
    if text in ("any", "ibgp", "ebgp"):
        return Peers(text)
    try:
        return str(ip_address(text))
    except ValueError:
        raise words.error(
            f"{text!r} is no neighbour", "write any, ibgp, ebgp, an address, group NAME or AS N", line=line
        ) from None


def _condition(words: Words, draft: _Draft, sets: Sets) -> None:
    line = words.peek().line
    if words.peek().text == "{" and not words.peek().quoted:
        words.listed(lambda: _as_tests(words, draft, sets, words.value("AS, peer-as, source-as or transit-as")))
        return
    keyword = words.value("a condition")
    match keyword:
        case "prefix":
            words.listed(lambda: draft.within.append(read_within(words)))
        case "prefix-set":
            draft.within += _prefix_set(words, sets)
        case "inet":
            draft.within.append(Within(Prefix(4, 0, 0), _family_lengths(words, 32)))
        case "inet6":
            draft.within.append(Within(Prefix(6, 0, 0), _family_lengths(words, 128)))
        case "AS" | "peer-as" | "source-as" | "transit-as":
            _as_tests(words, draft, sets, keyword)
        case "max-as-len":
            draft.longest = words.number("max-as-len", 255)
        case "community":
            draft.communities.append(_read(words, "a community", read_community))
        case "large-community":
            draft.large.append(_read(words, "a large community", read_large_community))
        case "ext-community":
            draft.extended.append(_extended(words))
        case "quick":
            raise words.error("quick stands before from", line=line)
        case _:
            raise words.error(
                f"the condition {keyword!r} is not understood here",
                "prefix, prefix-set, inet, inet6, AS, peer-as, source-as, transit-as, max-as-len, community, "
                "large-community and ext-community are; without it the rule would fit more than it says",
                line=line,
            )


def _prefix_set(words: Words, sets: Sets) -> list[Within]:
    line = words.peek().line
    name = words.value("the name of the prefix-set")
    if name not in sets.prefixes:
        raise words.error(f"there is no prefix-set {name!r}", "it must stand above the rule", line=line)
    found = sets.prefixes[name]
    if words.skip("or-longer"):
        return [Within(each.network, Lengths(each.network.length, WIDTHS[each.network.version])) for each in found]
    return found


def _family_lengths(words: Words, width: int) -> Lengths:
    return _lengths(words, width) if words.skip("prefixlen") else Lengths(0, width)


def _lengths(words: Words, width: int) -> Lengths:
    """Read what follows `prefixlen`."""
    for operator in ("=", "!=", "<=", ">=", "<", ">"):
        if words.skip(operator):
            length = words.number("the prefix length", width)
            return {
                "=": Lengths(length, length),
                "!=": Lengths(length, length, outside=True),
                "<=": Lengths(0, length),
                ">=": Lengths(length, width),
                "<": Lengths(0, length - 1),
                ">": Lengths(length + 1, width),
            }[operator]
    low, high, outside = _span(words, "the prefix length", width)
    return Lengths(low, high, outside)


def _span(words: Words, what: str, most: int) -> tuple[int, int, bool]:
    """Read `8`, `8-12`, `8 - 12` or `8><12`: first, last, and whether the others are meant."""
    if found := _RANGE.fullmatch(words.peek().text):
        line = words.take().line
        low, high, outside = int(found[1]), int(found[2]), False
    else:
        line = words.peek().line
        low, outside = words.number(what, most), False
        if words.skip("-"):
            high = words.number(what, most)
        elif words.skip("><"):
            high, outside = words.number(what, most), True
        else:
            high = low
    if low > high or high > most:
        raise words.error(f"{what} cannot be from {low} to {high}", line=line)
    return low, high, outside


def _as_tests(words: Words, draft: _Draft, sets: Sets, keyword: str) -> None:
    try:
        part = AsPart(keyword)
    except ValueError:
        raise words.error(f"{keyword!r} is none of AS, peer-as, source-as and transit-as") from None
    if words.skip("as-set"):
        line = words.peek().line
        name = words.value("the name of the as-set")
        if name not in sets.numbers:
            raise words.error(f"there is no as-set {name!r}", "it must stand above the rule", line=line)
        draft.as_tests += [AsTest(part, number) for number in sets.numbers[name]]
        return
    words.listed(lambda: draft.as_tests.append(_as_test(words, part)))


def _as_test(words: Words, part: AsPart) -> AsTest:
    if words.skip("!="):
        return AsTest(part, _as_or_name(words), outside=True)
    words.skip("=")
    if _RANGE.fullmatch(words.peek().text):
        low, high, _ = _span(words, "the AS number", AS_MAX)
        return AsTest(part, low, high)
    number = _as_or_name(words)
    if words.skip("-"):
        return AsTest(part, number, as_number(words))
    if words.skip("><"):
        return AsTest(part, number, as_number(words), outside=True)
    return AsTest(part, number)


def _as_or_name(words: Words) -> Number:
    if words.skip("neighbor-as"):
        return Named.NEIGHBOR_AS
    return Named.LOCAL_AS if words.skip("local-as") else as_number(words)


def _read(words: Words, what: str, read: Callable[[str], T]) -> T:
    line = words.peek().line
    try:
        return read(words.value(what))
    except ValueError as wrong:
        raise words.error(str(wrong), line=line) from wrong


def _half(text: str, most: int) -> Number:
    """Read one part of a community; raises ValueError."""
    for name in Named:
        if text == name.value:
            return name
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > most:
        raise ValueError(f"{text!r} is no part of a community: it is a number up to {most}, *, or neighbor-as")
    return int(text)


def _extended(words: Words) -> ExtendedCommunity:
    """Read `rt 65066:42`, `soo 192.0.2.1:7`, `rt 65066:*` or `* *` (RFC 4360, RFC 5668)."""
    line = words.peek().line
    name = words.value("the subtype of the extended community")
    text = words.value("the extended community")
    if name == text == "*":
        return ExtendedCommunity(0, 0)
    if name not in _EXT_SUBTYPES:
        known = ", ".join(_EXT_SUBTYPES)
        raise words.error(f"extended communities of subtype {name!r} are not understood", known, line=line)
    owner, colon, local = text.partition(":")
    try:
        kind, number, width = _owner(owner)
        if not colon:
            raise ValueError("no colon")
        wild = local == "*"
        low = 0 if wild else int(local)
        if not 0 <= low < 1 << width:
            raise ValueError("too large")
    except ValueError:
        raise words.error(f"{text!r} is no extended community", "write it as rt 65066:42", line=line) from None
    value = kind << 56 | _EXT_SUBTYPES[name] << 48 | number << width | low
    return ExtendedCommunity(value, _EVERY >> width << width if wild else _EVERY)


def _owner(text: str) -> tuple[int, int, int]:
    """Return type, number and the width of the local part for the first part of an extended community."""
    if text.count(".") == 3:
        return 0x01, int(ip_address(text)), 16
    if found := _ASDOT.fullmatch(text):
        return 0x02, int(found[1]) << 16 | int(found[2]), 16
    number = int(text)
    if not 0 <= number <= AS_MAX:
        raise ValueError("no AS number")
    return (0x00, number, 32) if number <= 0xFFFF else (0x02, number, 16)


def _set(words: Words, draft: _Draft, remark: Remarked | None) -> None:
    line = words.peek().line
    keyword = words.value("what to set")
    if keyword == "pftable":
        name = words.value("the name of the table")
        if not TABLE_NAME.fullmatch(name):
            raise words.error(
                f"{name!r} is no name of a table", "letters, digits, _ . and -, 31 at most", line=line
            )
        draft.table = name
    elif keyword in _IDLE_SETS:
        text = " ".join([keyword, *(words.value(keyword) for _ in range(_IDLE_SETS[keyword]))])
        if remark:
            remark(line, f"set {text}", "it does not matter for tables")
    elif keyword in ("community", "large-community", "ext-community"):
        raise words.error(
            f"set {keyword} is not possible: later rules would have to see it",
            "ask for what the neighbour sends, and set the table in the same rule",
            line=line,
        )
    else:
        raise words.error(f"set {keyword!r} is not understood", "set pftable NAME is what fills a table", line=line)


def _braced(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else "{ " + ", ".join(items) + " }"


def _source_text(source: Source) -> str:
    match source:
        case Peers():
            return source.value
        case Group(name=name):
            return f'group "{name}"'
        case As(number=number):
            return f"AS {number}"
        case str(address):
            return address


def _within_text(within: Within) -> str:
    network, lengths = within.network, within.lengths
    text = network.text if "/" in network.text else f"{network.text}/{network.length}"
    if lengths == Lengths(network.length, network.length):
        return text
    return f"{text} prefixlen {lengths.low}{'><' if lengths.outside else ' - '}{lengths.high}"


def _as_test_text(test: AsTest) -> str:
    number = _number_text(test.number)
    if test.last is None:
        return f"{test.part.value} {'!= ' if test.outside else ''}{number}"
    return f"{test.part.value} {number} {'><' if test.outside else '-'} {test.last}"


def _number_text(number: Number) -> str:
    return number.value if isinstance(number, Named) else str(number)


def _extended_text(community: ExtendedCommunity) -> str:
    if not community.mask:
        return "* *"
    kind, subtype = community.value >> 56, community.value >> 48 & 0xFF
    name = next(name for name, each in _EXT_SUBTYPES.items() if each == subtype)
    width = 32 if kind == 0x00 else 16
    owner, local = community.value >> width & (1 << 48 - width) - 1, community.value & (1 << width) - 1
    text = {0x00: str(owner), 0x01: str(IPv4Address(owner & AS_MAX)), 0x02: f"{owner >> 16}.{owner & 0xFFFF}"}[kind]
    return f"{name} {text}:{'*' if community.mask != _EVERY else local}"
