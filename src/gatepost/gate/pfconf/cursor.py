"""The parts of pf.conf's statements: words, lists, addresses, ports, interfaces."""

import re
from collections.abc import Callable
from pathlib import Path
from socket import getservbyname
from typing import Final, NoReturn

from gatepost.gate.pfconf.lex import PfConfError, Sort, Word
from gatepost.gate.pfconf.words import (
    PORT_MAX,
    Host,
    InTable,
    Interface,
    Named,
    Own,
    Ports,
    Routed,
    Within,
)
from gatepost.gate.prefix import Prefix, parse_prefix
from gatepost.gate.table import NAME_MAX

DEPTH_MAX: Final = 8  # lists in lists
TEXT_SHOWN: Final = 200
NUMBER_MAX: Final = (1 << 31) - 1
RANGE_MAX: Final = 64  # networks that make up a range of addresses; IPv4 needs 62 at most

SERVICES: Final = {
    "ssh": 22,
    "smtp": 25,
    "domain": 53,
    "www": 80,
    "http": 80,
    "pop3": 110,
    "ntp": 123,
    "imap": 143,
    "imap2": 143,
    "bgp": 179,
    "https": 443,
    "smtps": 465,
    "submissions": 465,
    "submission": 587,
    "imaps": 993,
    "pop3s": 995,
    "sieve": 4190,
    "spamd": 8025,
    "spamd-sync": 8025,
    "spamd-cfg": 8026,
}
_PROTOCOLS: Final = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmp6", "ipv6-icmp": "icmp6"}
_GROUPS: Final = frozenset(("egress", "self", "lo", "all", "carp", "enc", "pflog", "wlan", "tun", "vlan"))
_INTERFACE: Final = re.compile(r"[a-z][a-z0-9_-]*[0-9]")
_NETWORK_OF: Final = re.compile(r"[a-z][a-z0-9-]*:(network|broadcast|peer)(:0)?")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]+")
_ALIAS: Final = re.compile(r":[0-9]+$")


class Cursor:
    """A place between the words of one statement; each method reads one part of it, or raises PfConfError."""

    def __init__(self, words: list[Word], file: Path) -> None:
        """Begin before the first of some words."""
        self._words = words
        self._file = file
        self._at = 0
        self._end = Word("", words[-1].line, Sort.END)
        self._line = words[0].line

    def _interfaces(self) -> list[Interface]:
        if self._at_word("any"):
            self._take()
            return []
        found: list[Interface] = []

        def one() -> None:
            negated = self._skip("!")
            name = self._value("an interface")
            found.append(Interface(name, negated))
            if name == "rdomain":
                self._number("the routing domain")

        self._listed(one)
        return found

    def _protocol(self) -> str:
        name = self._value("a protocol").lower()
        return _PROTOCOLS.get(name, name)

    def _hosts(self) -> list[Host]:
        """Return whom a rule is for; none is everybody."""
        found: list[Host] = []
        everybody = False

        def one() -> None:
            nonlocal everybody
            negated = False
            while self._skip("!"):
                negated = not negated
            if not negated and self._at_word("any"):
                self._take()
                everybody = True
                return
            found.extend(self._host(negated=negated))

        self._listed(one)
        if not found and not everybody:
            self._wrong("a list without addresses", "write any, or an address")
        return [] if everybody else found

    def _host(self, *, negated: bool) -> list[Host]:
        if self._skip("<"):
            return [InTable(self._table_name(), negated)]
        if self._skip("("):
            name = self._value("an interface")
            if not self._skip(")"):
                self._wrong(f"({name} is never closed", f"write ({name})")
            self._length()
            return [Named(name, negated) if ":" in _ALIAS.sub("", name) else Own(name, negated)]
        line = self._peek().line
        name = self._value("an address")
        if name in ("no-route", "urpf-failed"):
            return [Routed(name, negated)]
        if name == "route":
            return [Named(f"route {self._value('the label')}", negated)]
        if self._at_word("-"):
            self._take()
            last = self._value("the last address")
            return [Within(self._range(name, last, line), negated)]
        return [self._address(name, negated, line)]

    def _address(self, name: str, negated: bool, line: int) -> Host:
        length = self._length()
        try:
            return Within((parse_prefix(name + length),), negated)
        except ValueError:
            pass
        bare = _ALIAS.sub("", name)
        if bare in _GROUPS or _INTERFACE.fullmatch(bare):
            return Own(bare, negated)
        is_name = _NAME.fullmatch(name) and not name[0].isdigit() and ":" not in name
        if not is_name and not _NETWORK_OF.fullmatch(name):
            self._wrong(f"{name + length!r} is no address", "write 192.0.2.1, 192.0.2.0/24 or <table>", line)
        return Named(name + length, negated)

    def _length(self) -> str:
        return f"/{self._value('the length of the network')}" if self._skip("/") else ""

    def _range(self, first: str, last: str, line: int) -> tuple[Prefix, ...]:
        try:
            low, high = parse_prefix(first), parse_prefix(last)
        except ValueError as wrong:
            self._wrong(str(wrong), "a range goes from address to address", line)
        if low.version != high.version or not (low.host and high.host) or low.number > high.number:
            self._wrong(f"{first} - {last} is no range", "a range goes from address to address", line)
        networks = tuple(cover(low, high))
        if len(networks) > RANGE_MAX:
            self._wrong(f"{first} - {last} is {len(networks)} networks", "write the networks that are meant", line)
        return networks

    def _table_name(self) -> str:
        name = self._value("a table's name")
        if not self._skip(">"):
            if self._peek_mark("><"):  # `<a><b>`
                self._words[self._at] = Word("<", self._peek().line, Sort.MARK)
            else:
                self._wrong(f"<{name} is never closed", f"write <{name}>")
        if len(name) > NAME_MAX:
            self._wrong(f"table name '{name}' is too long", f"{NAME_MAX} letters at most")
        return name

    def _ports(self) -> Ports:
        found: list[tuple[int, int]] = []
        self._listed(lambda: found.extend(self._port()))
        if not found:
            self._wrong("a list without ports", "write port smtp")
        return tuple(found)

    def _port(self) -> Ports:
        for sign in ("=", "!=", "<", "<=", ">", ">="):
            if self._skip(sign):
                return _compared(sign, self._port_number(self._value("a port")))
        text = self._value("a port")
        low, colon, high = text.partition(":")
        if colon:
            first, last = self._port_number(low), self._port_number(high)
            return ((first, last),) if first <= last else ()
        number = self._port_number(text)
        if self._skip("><"):
            last = self._port_number(self._value("a port"))
            return ((number + 1, last - 1),) if number + 1 <= last - 1 else ()
        if self._skip("<>"):
            return (*_compared("<", number), *_compared(">", self._port_number(self._value("a port"))))
        return ((number, number),)

    def _port_number(self, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= PORT_MAX:
            return int(text)
        if text in SERVICES:
            return SERVICES[text]
        try:
            return getservbyname(text)
        except (OSError, ValueError):
            self._wrong(f"unknown port {text}", "a number up to 65535, or a name of /etc/services")

    # --- words ----------------------------------------------------------------------------------------------

    def _peek(self) -> Word:
        return self._words[self._at] if self._at < len(self._words) else self._end

    def _take(self) -> Word:
        word = self._peek()
        self._at += 1
        return word

    @staticmethod
    def _is_mark(word: Word, *marks: str) -> bool:
        return word.sort is Sort.MARK and word.text in marks

    def _peek_mark(self, mark: str) -> bool:
        return self._is_mark(self._peek(), mark)

    def _skip(self, mark: str) -> bool:
        found = self._peek_mark(mark)
        self._at += found
        return found

    def _at_word(self, *texts: str) -> bool:
        word = self._peek()
        return word.sort is Sort.WORD and word.text in texts

    def _expect(self, text: str) -> None:
        if not self._at_word(text):
            self._wrong(f"'{text}' is missing before '{self._peek().text}'", f"write {text}")
        self._take()

    def _value(self, what: str) -> str:
        word = self._take()
        if word.sort in (Sort.MARK, Sort.END):
            at = f" before '{word.text}'" if word.text else " at the end of the line"
            self._wrong(f"{what} is missing{at}", "a statement that goes on ends its line with \\", word.line)
        return word.text

    def _number(self, what: str) -> int:
        line = self._peek().line
        text = self._value(what)
        if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > NUMBER_MAX:
            self._wrong(f"{what} is '{text}'", f"a whole number up to {NUMBER_MAX}", line)
        return int(text)

    def _listed(self, read: Callable[[], object], depth: int = 0) -> None:
        """Read one item, or several in braces, parted by commas, blanks or lines; lists may stand in lists."""
        if depth > DEPTH_MAX:
            self._wrong(f"lists in lists {DEPTH_MAX} deep", "write one list")
        opened = self._peek()
        if not self._skip("{"):
            read()
            return
        while not self._skip("}"):
            if self._peek().sort is Sort.END:
                self._wrong("this { is never closed", "add the }", opened.line)
            if not self._skip(","):
                self._listed(read, depth + 1)

    def _parenthesis(self) -> None:
        """Take what stands in parentheses, whatever it is."""
        opened = self._peek().line
        if not self._skip("("):
            self._wrong("a ( is missing", "see pf.conf(5)")
        depth = 1
        while depth:
            word = self._take()
            if word.sort is Sort.END:
                self._wrong("this ( is never closed", "add the )", opened)
            depth += self._is_mark(word, "(") - self._is_mark(word, ")")

    def _finish(self) -> None:
        word = self._peek()
        if word.sort is not Sort.END:
            self._wrong(f"syntax error at '{word.text}'", "the statement is over before it", word.line)

    def _shown(self) -> str:
        return statement_text(self._words)

    def _wrong(self, problem: str, remedy: str, line: int = 0) -> NoReturn:
        raise PfConfError(self._file, line or self._peek().line, problem, remedy)


def cover(low: Prefix, high: Prefix) -> list[Prefix]:
    """Return the fewest networks that hold the addresses from one to another, of one family."""
    width = low.length
    found, first, last = [], low.number, high.number
    while first <= last:
        bits = min((first & -first).bit_length() - 1 if first else width, (last - first + 1).bit_length() - 1)
        found.append(Prefix(low.version, width - bits, first))
        first += 1 << bits
    return found


def host_text(host: Host) -> str:
    """Write whom a rule is for."""
    sign = "! " if host.negated else ""
    match host:
        case Within(networks=networks):
            return sign + ", ".join(each.text for each in networks)
        case InTable(name=name):
            return f"{sign}<{name}>"
        case Routed(word=word):
            return sign + word
        case Own(name=name) | Named(name=name):
            return sign + name


def statement_text(words: list[Word]) -> str:
    """Write a statement in one line, at most TEXT_SHOWN letters of it."""
    shown = " ".join(f'"{word.text}"' if word.sort is Sort.QUOTED else word.text for word in words[:TEXT_SHOWN])
    for pattern, plain in ((r"< (\S+) >", r"<\1>"), (r" ?/ ", "/"), (r" ,", ","), (r"\( ", "("), (r" \)", ")")):
        shown = re.sub(pattern, plain, shown)
    return shown if len(shown) <= TEXT_SHOWN else shown[: TEXT_SHOWN - 4] + " ..."


def _compared(sign: str, number: int) -> Ports:
    spans: Ports
    match sign:
        case "=":
            spans = ((number, number),)
        case "!=":
            spans = ((0, number - 1), (number + 1, PORT_MAX))
        case "<":
            spans = ((0, number - 1),)
        case "<=":
            spans = ((0, number),)
        case ">":
            spans = ((number + 1, PORT_MAX),)
        case _:
            spans = ((number, PORT_MAX),)
    return tuple(each for each in spans if each[0] <= each[1])


def is_loopback(name: str) -> bool:
    """Tell whether an interface is lo, lo0 or the like."""
    return re.fullmatch(r"lo[0-9]*", name) is not None
