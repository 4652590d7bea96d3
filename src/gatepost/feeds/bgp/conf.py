"""Read a bgpd.conf of OpenBGPD: all that a speaker needs which takes routes, fills tables and announces nothing.

Statements of bgpd that mean nothing here (networks to announce, RIBs, dumps) are left out and listed, line by line,
in `remarks`. Whatever would change which routes are taken is either understood or refused, never left out.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Final

from gatepost.base.settings import BadSetting, fill
from gatepost.base.units import Seconds
from gatepost.feeds.bgp.filter import Rule
from gatepost.feeds.bgp.rules import Remarked, Sets, as_number, read_rule, read_within
from gatepost.feeds.bgp.settings import NeighborSettings, check_holdtime
from gatepost.feeds.bgp.words import END, BgpdConfError, Words

SIZE_MAX: Final = 1 << 20
INCLUDES_MAX: Final = 16
NEVER_ANNOUNCED: Final = "nothing is ever announced"

_IDLE: Final = {  # statements that mean nothing here, and why
    "connect-retry": "it is tried again after 120 s",
    "dump": "write no MRT files",
    "log": "changes of sessions are always logged",
    "mrt": "write no MRT files",
    "network": NEVER_ANNOUNCED,
    "nexthop": "no route is ever set",
    "rde": "tables take routes whether they are the best or not",
    "reject": "AS sets are taken as they are",
    "roa-set": "origins are not validated",
    "aspa-set": "origins are not validated",
    "origin-set": "origins are not validated",
    "route-collector": "tables take routes whether they are the best or not",
    "rtr": "origins are not validated",
    "rtable": "no route is ever set",
    "socket": "`gatepost bgp` asks the server by its own socket",
    "staletime": "set stale_time in [feeds.bgp]",
    "transparent-as": NEVER_ANNOUNCED,
    "vpn": NEVER_ANNOUNCED,
    "rdomain": NEVER_ANNOUNCED,
}
_IDLE_OF_NEIGHBORS: Final = {
    "demote": "interface groups are not demoted",
    "depend": "interfaces are not watched",
    "dump": "write no MRT files",
    "export": NEVER_ANNOUNCED,
    "log": "changes of sessions are always logged",
    "rde": "tables take routes whether they are the best or not",
    "reject": "AS sets are taken as they are",
    "rib": "each neighbour has one RIB",
    "route-reflector": NEVER_ANNOUNCED,
    "set": "attributes do not matter for tables",
    "softreconfig": "what was received is always kept",
    "transparent-as": NEVER_ANNOUNCED,
}


@dataclass(frozen=True, slots=True)
class Remark:
    """A statement that was left out, and why."""

    file: Path
    line: int
    statement: str
    reason: str

    @property
    def text(self) -> str:
        """Return it as one line for people."""
        return f"{self.file}:{self.line}: left out: {self.statement} ({self.reason})"


@dataclass(slots=True)
class BgpdConf:
    """What a bgpd.conf says; 0, an empty text and None stand for what it does not say."""

    asn: int = 0
    router_id: str = ""
    holdtime: Seconds | None = None
    holdtime_min: Seconds | None = None
    listen: list[str] = field(default_factory=list)
    neighbors: list[NeighborSettings] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


_Terms = dict[str, object]
"""What a group or neighbour says so far, by the names of NeighborSettings; a neighbour begins with its group's."""


def read(path: Path) -> BgpdConf:
    """Read a file; raises BgpdConfError."""
    reader = _Reader()
    reader.read(path)
    return reader.conf


def parse(text: str, path: Path) -> BgpdConf:
    """Read a bgpd.conf from its text; `path` is for messages and for what it includes."""
    reader = _Reader()
    reader.parse(text, path)
    return reader.conf


def parse_filter(text: str, path: Path, where: str) -> Rule:
    """Read one rule, as it stands in `[feeds.bgp] filters`; raises BgpdConfError."""
    words = Words(text, path, {})
    rule = read_rule(words, Sets(), where)
    if rule is None:
        raise words.error("a rule about what is announced has no use here", "write from instead of to")
    _end(words)
    return rule


class _Reader:
    def __init__(self) -> None:
        self.conf = BgpdConf()
        self._macros: dict[str, str] = {}
        self._sets = Sets()
        self._depth = 0

    def read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                octets = file.read(SIZE_MAX + 1)
            text = octets.decode("utf-8")
        except FileNotFoundError:
            raise BgpdConfError(path, 0, "there is no such file") from None
        except (OSError, UnicodeDecodeError) as wrong:
            raise BgpdConfError(path, 0, f"it cannot be read: {wrong}") from wrong
        if len(octets) > SIZE_MAX:
            raise BgpdConfError(path, 0, f"it is larger than {SIZE_MAX} octets", "is it a bgpd.conf?")
        self.parse(text, path)

    def parse(self, text: str, path: Path) -> None:
        words = Words(text, path, self._macros)
        while not words.skip(""):
            if not words.skip(END):
                self._statement(words)

    # --- statements -----------------------------------------------------------------------------------------

    def _statement(self, words: Words) -> None:
        line = words.peek().line
        if words.peek().text in ("allow", "deny", "match"):
            self._rule(words, line)
            _end(words)
            return
        keyword = words.value("a statement")
        if words.skip("="):
            self._macros[keyword] = _macro_value(words)
        elif keyword == "group":
            self._group(words)
        elif keyword == "neighbor":
            self._neighbor(words, {})
        elif (known := self._globals.get(keyword)) is not None:
            known(self, words)
        elif keyword in _IDLE:
            self._leave_out(words, keyword, line, _IDLE[keyword])
        else:
            near = difflib.get_close_matches(
                keyword, ("allow", "deny", "match", "group", "neighbor", *self._globals, *_IDLE), n=1
            )
            hint = f"did you mean {near[0]!r}?" if near else "see bgpd.conf(5)"
            raise words.error(f"{keyword!r} is no statement of bgpd.conf", hint, line=line)
        _end(words)

    def _rule(self, words: Words, line: int) -> None:
        rule = read_rule(words, self._sets, f"{words.file}:{line}", self._remark(words))
        if rule is not None:
            self.conf.rules.append(rule)

    def _as(self, words: Words) -> None:
        self.conf.asn = as_number(words)
        if words.peek().text not in (END, ""):
            as_number(words)  # the AS to show to two-octet neighbours: AS_TRANS always

    def _router_id(self, words: Words) -> None:
        line = words.peek().line
        text = words.value("the router-id")
        try:
            usable = IPv4Address(text) != IPv4Address(0)
        except ValueError:
            usable = False
        if not usable:
            raise words.error(f"router-id {text!r} is no IPv4 address", "write router-id 192.0.2.1", line=line)
        self.conf.router_id = text

    def _fib_update(self, words: Words) -> None:
        line = words.peek().line
        if words.yes():
            raise words.error(
                "fib-update yes is not possible: gatepost never touches the routing table",
                "write fib-update no",
                line=line,
            )

    def _holdtime(self, words: Words) -> None:
        if words.skip("min"):
            self.conf.holdtime_min = _holdtime_of(words)
        else:
            self.conf.holdtime = _holdtime_of(words)

    def _listen(self, words: Words) -> None:
        if not words.skip("on"):
            raise words.error("listen must be followed by on", "write listen on 192.0.2.1")
        address = _address(words)
        if words.skip("port"):
            port = words.number("the port", 65_535)
            address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self.conf.listen.append(address)

    def _include(self, words: Words) -> None:
        line = words.peek().line
        path = words.file.parent / words.value("the file to include")
        if self._depth >= INCLUDES_MAX:
            raise words.error("files include each other too deeply", line=line)
        self._depth += 1
        self.read(path)
        self._depth -= 1

    def _prefix_set(self, words: Words) -> None:
        name = words.value("the name of the prefix-set")
        found = self._sets.prefixes.setdefault(name, [])
        words.listed(lambda: found.append(read_within(words)))

    def _as_set(self, words: Words) -> None:
        name = words.value("the name of the as-set")
        found = self._sets.numbers.setdefault(name, [])
        words.listed(lambda: found.append(as_number(words)))

    _globals: Final[dict[str, Callable[["_Reader", Words], None]]] = {
        "AS": _as,
        "router-id": _router_id,
        "fib-update": _fib_update,
        "holdtime": _holdtime,
        "listen": _listen,
        "include": _include,
        "prefix-set": _prefix_set,
        "as-set": _as_set,
    }

    # --- neighbours -----------------------------------------------------------------------------------------

    def _group(self, words: Words) -> None:
        name = words.value("the name of the group")
        terms: _Terms = {"group": name}
        first = len(self.conf.neighbors)
        self._block(words, terms, f"group {name!r}", in_group=True)
        if len(self.conf.neighbors) == first:
            raise words.error(f"group {name!r} has no neighbor")

    def _neighbor(self, words: Words, inherited: _Terms) -> None:
        line = words.peek().line
        text = words.value("the address of the neighbor")
        if "/" in text:
            raise words.error(
                f"neighbor {text} is a template for a network", "name each neighbor by its address", line=line
            )
        try:
            address = str(ip_address(text))
        except ValueError:
            raise words.error(f"neighbor {text!r} is no address", "a macro is written $name", line=line) from None
        terms: _Terms = {**inherited, "address": address}
        if words.peek().text == "{" and not words.peek().quoted:
            self._block(words, terms, f"neighbor {address}", in_group=False)
        if "remote_as" not in terms:
            raise words.error(
                f"neighbor {address} has no remote-as", "write remote-as N in it or its group", line=line
            )
        self._add(words, terms, line)

    def _add(self, words: Words, terms: _Terms, line: int) -> None:
        try:
            neighbor = fill(NeighborSettings, terms)
        except BadSetting as wrong:
            raise words.error(f"neighbor {terms['address']}: {wrong.problem}", line=line) from wrong
        if any(each.address == neighbor.address for each in self.conf.neighbors):
            raise words.error(f"neighbor {neighbor.address} stands here a second time", line=line)
        self.conf.neighbors.append(neighbor)

    def _block(self, words: Words, terms: _Terms, what: str, *, in_group: bool) -> None:
        opened = words.peek().line
        if not words.skip("{"):
            raise words.error(f"{what} must be followed by {{")
        while not words.skip("}"):
            if words.skip(END):
                continue
            if words.skip(""):
                raise words.error(f"the braces of {what} are not closed", line=opened)
            line = words.peek().line
            keyword = words.value("a statement")
            if keyword == "neighbor" and in_group:
                self._neighbor(words, terms)
            else:
                self._term(words, terms, keyword, line)
            _end(words, inside=True)

    def _term(self, words: Words, terms: _Terms, keyword: str, line: int) -> None:
        if (known := _TERMS.get(keyword)) is not None:
            known(words, terms)
        elif keyword == "announce":
            self._announce(words, terms, line)
        elif keyword == "max-prefix":
            self._max_prefix(words, terms, line)
        elif keyword in _IDLE_OF_NEIGHBORS:
            self._leave_out(words, keyword, line, _IDLE_OF_NEIGHBORS[keyword])
        elif keyword in ("ipsec", "local-as", "as-override", "neighbor", "group"):
            raise words.error(f"{keyword} is not possible here", "take it out", line=line)
        else:
            near = difflib.get_close_matches(keyword, (*_TERMS, "announce", "max-prefix", *_IDLE_OF_NEIGHBORS), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see bgpd.conf(5), NEIGHBORS AND GROUPS"
            raise words.error(f"{keyword!r} is no statement of a neighbor", hint, line=line)

    def _announce(self, words: Words, values: _Terms, line: int) -> None:
        family = words.value("what to announce")
        if family in ("IPv4", "IPv6"):
            kind = words.value("none or unicast")
            if kind == "vpn":
                self.conf.remarks.append(Remark(words.file, line, f"announce {family} vpn", NEVER_ANNOUNCED))
            elif kind not in ("none", "unicast"):
                raise words.error(f"announce {family} {kind!r}", "it is none or unicast", line=line)
            else:
                values[family.lower()] = kind == "unicast"
        elif family == "none":
            pass  # the article's, OpenBSD up to 6.3: as it always is here
        elif family == "capabilities":
            values["announce_capabilities"] = words.yes()
        else:
            rest = words.rest()
            reason = NEVER_ANNOUNCED if family in ("all", "self", "default-route") else "it is negotiated"
            self.conf.remarks.append(Remark(words.file, line, f"announce {family} {rest}".rstrip(), reason))

    def _max_prefix(self, words: Words, values: _Terms, line: int) -> None:
        most = words.number("max-prefix")
        out = words.skip("out")
        restart = words.number("restart, in minutes", 65_535) if words.skip("restart") else 0
        if out:
            self.conf.remarks.append(Remark(words.file, line, f"max-prefix {most} out", NEVER_ANNOUNCED))
            return
        values["max_prefix"], values["max_prefix_restart"] = most, Seconds(60 * restart)

    def _leave_out(self, words: Words, keyword: str, line: int, reason: str) -> None:
        statement = f"{keyword} {words.rest()}".rstrip()
        self.conf.remarks.append(Remark(words.file, line, statement, reason))

    def _remark(self, words: Words) -> Remarked:
        return lambda line, statement, reason: self.conf.remarks.append(Remark(words.file, line, statement, reason))


def _number(name: str, most: int) -> Callable[[Words, _Terms], None]:
    def read_it(words: Words, values: _Terms) -> None:
        values[name] = words.number(name, most)

    return read_it


def _fact(name: str) -> Callable[[Words, _Terms], None]:
    def read_it(words: Words, values: _Terms) -> None:
        values[name] = words.yes()

    return read_it


def _remote_as(words: Words, values: _Terms) -> None:
    values["remote_as"] = as_number(words)


def _descr(words: Words, values: _Terms) -> None:
    values["description"] = words.value("the description")


def _local_address(words: Words, values: _Terms) -> None:
    values["local_address"] = _address(words)


def _no(words: Words, values: _Terms) -> None:
    if not words.skip("local-address"):
        raise words.error("no must be followed by local-address")
    values.pop("local_address", None)


def _passive(words: Words, values: _Terms) -> None:
    values["passive"] = True


def _down(words: Words, values: _Terms) -> None:
    values["down"] = True
    words.rest()  # a reason, told to nobody: there is no session yet


def _enforce(words: Words, values: _Terms) -> None:
    line = words.peek().line
    what = words.value("neighbor-as or local-as")
    if what not in ("neighbor-as", "local-as"):
        raise words.error(f"enforce {what!r} is not understood", "it is neighbor-as or local-as", line=line)
    wanted = words.yes()
    if what == "neighbor-as":
        values["enforce_neighbor_as"] = wanted
    elif not wanted:
        raise words.error("enforce local-as no is not possible", "routes with our own AS are ignored", line=line)


def _neighbor_holdtime(words: Words, values: _Terms) -> None:
    if words.skip("min"):
        raise words.error("holdtime min is the same for all neighbours", "write it above the groups")
    values["holdtime"] = _holdtime_of(words)


def _tcp(words: Words, values: _Terms) -> None:
    line = words.peek().line
    if not words.skip("md5sig"):
        raise words.error("tcp must be followed by md5sig")
    kind = words.value("password or key")
    secret = words.value("the secret")
    if kind == "password":
        values["md5_password"], values["md5_key"] = secret, ""
    elif kind == "key":
        try:
            bytes.fromhex(secret)
        except ValueError:
            raise words.error("the md5sig key is not hexadecimal", line=line) from None
        values["md5_password"], values["md5_key"] = "", secret
    else:
        raise words.error(f"tcp md5sig {kind!r} is not understood", "it is password or key", line=line)


_TERMS: Final[Mapping[str, Callable[[Words, _Terms], None]]] = {
    "remote-as": _remote_as,
    "descr": _descr,
    "multihop": _number("multihop", 255),
    "port": _number("port", 65_535),
    "local-address": _local_address,
    "no": _no,
    "passive": _passive,
    "down": _down,
    "enforce": _enforce,
    "holdtime": _neighbor_holdtime,
    "tcp": _tcp,
    "ttl-security": _fact("ttl_security"),
}


def _macro_value(words: Words) -> str:
    found = [words.value("the value of the macro")]
    while words.peek().quoted or words.peek().text not in (END, ""):
        found.append(words.value("the value of the macro"))
    return " ".join(found)


def _holdtime_of(words: Words) -> Seconds:
    line = words.peek().line
    length = Seconds(words.number("the hold time, in seconds", 65_535))
    try:
        check_holdtime(length)
    except ValueError as wrong:
        raise words.error(str(wrong), line=line) from wrong
    return length


def _address(words: Words) -> str:
    line = words.peek().line
    text = words.value("an address")
    try:
        return str(ip_address(text))
    except ValueError:
        raise words.error(f"{text!r} is no address", line=line) from None


def _end(words: Words, *, inside: bool = False) -> None:
    """Take the end of a statement."""
    word = words.peek()
    if not word.quoted and (word.text == "" or (inside and word.text == "}")):
        return
    if not words.skip(END):
        raise words.error(f"{word.text!r} is not understood here")
