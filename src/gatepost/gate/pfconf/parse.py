"""pf.conf read: statements to data (`words`), each with a remark when nothing here heeds it. See pf.conf(5).

A statement that pfctl would not take is an error with its line. One that it takes and we cannot follow is kept as a
remark; a rule with a condition that nobody here can ask is kept with that condition named, and never applied.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from socket import getservbyname
from typing import Final, NoReturn

from gatepost.base.units import Seconds
from gatepost.gate.pfconf.lex import MACRO_MAX, Lexer, PfConfError, Sort, Word
from gatepost.gate.pfconf.words import (
    ALL_PORTS,
    PFLOG,
    PORT_MAX,
    Action,
    Conf,
    DeclaredTable,
    Heed,
    Host,
    InTable,
    Interface,
    Limits,
    Named,
    Own,
    Ports,
    Redirect,
    Remark,
    Routed,
    Rule,
    Within,
)
from gatepost.gate.prefix import Prefix, parse_prefix
from gatepost.gate.settings import RateSettings
from gatepost.gate.table import NAME_MAX, Entry

DEPTH_MAX: Final = 8  # lists in lists, files in files
TEXT_SHOWN: Final = 200
RULES_MAX: Final = 20_000
NUMBER_MAX: Final = (1 << 31) - 1

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
_LETTERS: Final = re.compile(r"[FSRPAUEW]*")
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]+")
_ALIAS: Final = re.compile(r":[0-9]+$")

_CONDITIONS: Final = frozenset(
    ("user", "group", "tagged", "probability", "max-pkt-rate", "received-on", "prio", "tos")
)
"""Conditions of a rule that cannot be asked about a connection that was accepted."""

_NO_MEANING: Final = {
    "anchor": "anchors are not read: write their rules here",
    "load": "anchors are not read: write their rules here",
    "antispoof": "spoofed addresses are the kernel's: [gate.kernel] urpf = true",
    "queue": "no bandwidth is shared out here",
    "altq": "no bandwidth is shared out here",
    "nat": "addresses are not translated here",
    "nat-anchor": "addresses are not translated here",
    "binat": "addresses are not translated here",
    "binat-anchor": "addresses are not translated here",
    "rdr-anchor": "anchors are not read: write their rules here",
    "rdr": "OpenBSD before 4.7: write pass in ... rdr-to 127.0.0.1 port spamd",
    "scrub": "packets are the kernel's",
    "no": "addresses are not translated here",
    "route": "packets are the kernel's",
}
_IDLE_SETTINGS: Final = {
    "reassemble": "packets are the kernel's, which reassembles fragments",
    "loginterface": "there are no counters by interface: gatepost status has its own",
    "optimization": "states are the kernel's",
    "ruleset-optimization": "rules are always made ready for speed",
    "state-policy": "states are the kernel's",
    "state-defaults": "states are the kernel's",
    "hostid": "states are not shared",
    "debug": "server.log_level is ours",
    "fingerprints": "operating systems are not recognised",
    "timeout": "states are the kernel's; sessions have their own timeouts",
    "syncookies": "the kernel sends them by itself when it must",
    "require-order": "statements may stand in any order",
    "delay": "packets are the kernel's",
    "prio": "packets are the kernel's",
}


def parse(text: str, file: Path, read: Callable[[Path], str] | None = None) -> Conf:
    """Read a pf.conf from its text; `read` gives the files that it includes. Raises PfConfError."""
    conf = Conf(file)
    _Reader(conf, file, read, 0).read_all(text)
    return conf


class _Reader:
    """Reads one file's statements into a Conf."""

    def __init__(self, conf: Conf, file: Path, read: Callable[[Path], str] | None, depth: int) -> None:
        self._conf = conf
        self._file = file
        self._read = read
        self._depth = depth

    def read_all(self, text: str) -> None:
        lexer = Lexer(text, self._file, self._conf.macros)
        while words := lexer.statement():
            _Statement(words, self._file, self._conf, self._include).read()

    def _include(self, path: Path, line: int) -> None:
        if self._depth >= DEPTH_MAX:
            raise PfConfError(self._file, line, f"files include files {DEPTH_MAX} deep", "does one include itself?")
        if self._read is None:
            raise PfConfError(self._file, line, "files are not included here", "put its text in the place")
        try:
            text = self._read(path)
        except (OSError, ValueError) as wrong:
            raise PfConfError(self._file, line, f"{path} cannot be read: {wrong}") from wrong
        _Reader(self._conf, path, self._read, self._depth + 1).read_all(text)


class _Statement:
    """The words of one statement, read from the left."""

    def __init__(self, words: list[Word], file: Path, conf: Conf, include: Callable[[Path, int], None]) -> None:
        self._words = words
        self._file = file
        self._conf = conf
        self._include = include
        self._at = 0
        self._end = Word("", words[-1].line, Sort.END)
        self._line = words[0].line

    # --- statements -----------------------------------------------------------------------------------------

    def read(self) -> None:
        first = self._words[0]
        if first.sort is Sort.WORD and len(self._words) > 1 and self._is_mark(self._words[1], "="):
            self._macro()
            return
        match first.text if first.sort is Sort.WORD else "":
            case "set":
                self._setting()
            case "table":
                self._table()
            case "include":
                self._take()
                path = Path(self._value("the file's name"))
                self._finish()
                self._remark(Heed.MAPPED, "its statements stand here")
                self._include(path, self._line)
            case "pass" | "block" | "match":
                self._conf.rules.append(self._rule())
                if len(self._conf.rules) > RULES_MAX:
                    self._wrong(f"more than {RULES_MAX} rules", "use tables and lists")
            case word if word in _NO_MEANING:
                heed = Heed.IGNORED if word in ("scrub", "queue", "altq") else Heed.UNSUPPORTED
                self._remark(heed, _NO_MEANING[word])
            case _:
                self._wrong(
                    f"syntax error at '{first.text}'", "a statement begins with set, table, pass, block, match"
                )

    def _macro(self) -> None:
        name = self._take().text
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            self._wrong(f"{name!r} is no name for a macro", "letters, digits and _ only")
        self._take()
        parts = []
        while (word := self._take()).sort is not Sort.END:
            parts.append(word.text)
        if not parts:
            self._wrong(f"macro {name} has no text", f'write {name} = "..."')
        text = " ".join(parts)
        if len(text) > MACRO_MAX:
            self._wrong(f"macro {name} has more than {MACRO_MAX} letters", "use a table")
        self._conf.macros[name] = text

    def _setting(self) -> None:
        self._take()
        name = self._value("the option's name")
        match name:
            case "limit":
                self._listed(self._limit)
            case "block-policy":
                policy = self._value("drop or return")
                if policy not in ("drop", "return"):
                    self._wrong(f"block-policy is {policy!r}", "drop or return")
                why = "blocked connections are reset"
                if policy == "drop":
                    why += ": they are accepted by then, and cannot be dropped in silence"
                self._remark(Heed.MAPPED, why)
            case "skip":
                self._expect("on")
                names = [each.name for each in self._interfaces()]
                self._conf.skipped |= set(names)
                self._conf.skip_line = self._line
                if all(is_loopback(each) for each in names):
                    self._remark(Heed.MAPPED, "connections from 127.0.0.0/8 and ::1 pass unasked")
                else:
                    self._remark(Heed.UNSUPPORTED, "only lo can be skipped: name other networks in gate.exempt")
            case word if word in _IDLE_SETTINGS:
                self._at = len(self._words)
                self._remark(Heed.IGNORED, _IDLE_SETTINGS[word])
            case _:
                self._wrong(f"there is no option '{name}'", "see set in pf.conf(5)")
        self._finish()

    def _limit(self) -> None:
        what = self._value("what is limited")
        number = self._number(f"the limit of {what}")
        if what == "table-entries":
            self._conf.table_entries = number
            self._remark(Heed.MAPPED, f"gate.tables_max = {number}")
        else:
            self._remark(Heed.IGNORED, f"{what} are the kernel's")

    def _table(self) -> None:
        self._take()
        if not self._skip("<"):
            self._wrong("a table's name stands between < and >", "write table <name> persist")
        name = self._table_name()
        persist = const = False
        files: list[str] = []
        entries: list[Entry] = []
        left: list[str] = []
        while (word := self._peek()).sort is not Sort.END:
            if self._is_mark(word, "{"):
                self._listed(lambda: self._entry(entries, left))
                continue
            match self._take().text:
                case "persist":
                    persist = True
                case "const":
                    const = True
                case "counters":
                    pass
                case "file":
                    files.append(self._value("the file's name"))
                case other:
                    self._wrong(
                        f"syntax error at '{other}' in table <{name}>",
                        "persist, const, counters, file or { addresses }; a rule begins a line of its own",
                    )
        self._conf.tables[name] = DeclaredTable(name, self._line, persist, const, tuple(files), tuple(entries))
        why = f"filled from {', '.join(files)}" if files else "filled by feeds, limits and gatepost tables"
        if entries:
            why = f"{len(entries)} entries of its own, {why}"
        if const:
            why += "; const: nothing keeps gatepost tables from changing it"
        self._remark(Heed.MAPPED, why)
        if left:
            self._remark(Heed.UNSUPPORTED, f"names are not looked up, write addresses: {', '.join(left)}")

    def _entry(self, entries: list[Entry], left: list[str]) -> None:
        negated = False
        while self._skip("!"):
            negated = not negated
        for host in self._host(negated=negated):
            if isinstance(host, Within):
                entries += [Entry(network, negated) for network in host.networks]
            else:
                left.append(host_text(host))

    # --- rules ----------------------------------------------------------------------------------------------

    def _rule(self) -> Rule:
        part = _Parts()
        action = Action(self._take().text)
        if action is Action.BLOCK:
            self._block_policy(part)
        if self._at_word("in", "out"):
            part.direction = self._take().text
        while self._at_word("log", "quick"):
            self._log(part) if self._take().text == "log" else part.now()
        if self._at_word("on"):
            self._take()
            part.interfaces = self._interfaces()
        if self._at_word("inet", "inet6"):
            part.family = 4 if self._take().text == "inet" else 6
        if self._at_word("proto"):
            self._take()
            self._listed(lambda: part.protocols.add(self._protocol()))
        if self._at_word("all"):
            self._take()
        else:
            self._from_to(part)
        while self._peek().sort is not Sort.END:
            self._option(part)
        self._check_ports(part)
        return Rule(
            self._file,
            self._line,
            self._shown(),
            action,
            part.quick,
            part.direction,
            part.log,
            tuple(part.interfaces),
            part.family,
            frozenset(part.protocols),
            tuple(part.sources),
            part.source_ports,
            tuple(part.targets),
            part.ports,
            part.syn,
            part.limits,
            part.redirect,
            tuple(part.unknown),
            tuple(part.idle),
        )

    def _block_policy(self, part: "_Parts") -> None:
        if self._at_word("drop", "return", "return-rst", "return-icmp", "return-icmp6"):
            if self._take().text == "drop":
                part.idle.append("drop: blocked connections are reset")
            if self._peek_mark("("):
                self._parenthesis()

    def _log(self, part: "_Parts") -> None:
        part.log = PFLOG
        if not self._skip("("):
            return
        while not self._skip(")"):
            if self._skip(","):
                continue
            match self._value("all, matches, user or to pflogN"):
                case "to":
                    part.log = self._value("the interface")
                case "all" | "matches" | "user":
                    pass
                case other:
                    self._wrong(f"there is no log ({other})", "all, matches, user or to pflogN")

    def _from_to(self, part: "_Parts") -> None:
        if self._at_word("from"):
            self._take()
            if not self._at_word("port"):
                part.sources = self._hosts()
            if self._at_word("port"):
                self._take()
                part.source_ports = self._ports()
        if self._at_word("os"):
            self._take()
            self._listed(lambda: self._value("an operating system"))
            part.unknown.append("os")
        if self._at_word("to"):
            self._take()
            if not self._at_word("port"):
                part.targets = self._hosts()
            if self._at_word("port"):
                self._take()
                part.ports = self._ports()
        elif self._at_word("port"):
            self._wrong("a port without from or to", "write to any port smtp")

    def _check_ports(self, part: "_Parts") -> None:
        if (part.ports, part.source_ports) != (ALL_PORTS, ALL_PORTS) and not part.protocols & {"tcp", "udp"}:
            self._wrong("port only applies to tcp/udp", "write proto tcp")

    def _option(self, part: "_Parts") -> None:
        """Read one of the options behind a rule's addresses, which come in any order."""
        if self._skip("!"):
            self._expect("tagged")
            part.unknown.append(f"! tagged {self._value('the tag')}")
            return
        word = self._take()
        if word.sort is not Sort.WORD:
            self._wrong(
                f"syntax error at '{word.text}'",
                "limits stand behind `keep state`, addresses behind `from` and `to`",
                word.line,
            )
        match word.text:
            case "flags":
                part.syn = self._flags()
            case "keep" | "modulate" | "synproxy" | "no":
                self._expect("state")
                if self._peek_mark("("):
                    part.limits = self._state_options(part)
                if word.text == "no":
                    part.limits = None
            case "rdr-to" | "divert-to":
                part.redirect = self._redirect()
            case "nat-to" | "binat-to" | "af-to" | "route-to" | "reply-to" | "dup-to":
                self._translation()
                part.idle.append(f"{word.text}: packets are the kernel's")
            case "divert-reply" | "once" | "allow-opts":
                part.idle.append(f"{word.text}: packets are the kernel's")
            case "fragment":
                part.unknown.append("fragment")
            case "label" | "tag" | "rtable" | "divert-packet" | "delay":
                if self._at_word("port"):
                    self._take()
                self._value(f"the {word.text}")
                part.idle.append(f"{word.text}: nothing here asks for it")
            case "queue":
                self._parenthesis() if self._peek_mark("(") else self._value("the queue")
                part.idle.append("queue: no bandwidth is shared out here")
            case "scrub" | "set":
                self._parenthesis()
                part.idle.append(f"{word.text}: packets are the kernel's")
            case "icmp-type" | "icmp6-type":
                self._listed(self._icmp_type)
            case name if name in _CONDITIONS:
                self._condition()
                part.unknown.append(name)
            case other:
                self._wrong(f"syntax error at '{other}'", "this is no option of a rule; see pf.conf(5)", word.line)

    def _icmp_type(self) -> None:
        self._value("the type")
        if self._at_word("code"):
            self._take()
            self._value("the code")

    def _condition(self) -> None:
        """Take the value of a condition that is not asked: `user { a b }`, `probability 20%`, `user > 1000`."""
        if self._peek_mark("{"):
            self._listed(lambda: self._value("a value"))
            return
        while self._peek().sort is Sort.MARK and self._peek().text in ("!", "=", "!=", "<", ">", "<=", ">="):
            self._take()
        self._value("a value")
        if self._skip("/") or self._skip("><") or self._skip("<>"):
            self._value("a value")

    def _flags(self) -> bool:
        """Tell whether the packet that opens a connection, with SYN and no ACK, matches `flags a/b`."""
        if self._at_word("any"):
            self._take()
            return True
        of = wanted = ""
        if not self._peek_mark("/"):
            wanted = self._value("the flags")
        if not self._skip("/"):
            self._wrong("flags without /", "write flags S/SA or flags any")
        of = self._value("the flags")
        if not _LETTERS.fullmatch(wanted) or not _LETTERS.fullmatch(of):
            self._wrong(f"{wanted}/{of} are no flags", "letters of FSRPAUEW")
        return ({"S"} & set(of)) == set(wanted)

    def _state_options(self, part: "_Parts") -> Limits | None:
        self._take()
        total = connections = count = within = 0
        table, flush, everywhere = "", False, False
        while not self._skip(")"):
            if self._skip(","):
                continue
            match self._value("an option of the state"):
                case "max":
                    total = self._number("max")
                case "max-src-conn":
                    connections = self._number("max-src-conn")
                case "max-src-conn-rate":
                    count = self._number("max-src-conn-rate")
                    if not self._skip("/"):
                        self._wrong("max-src-conn-rate is a number and seconds", "write 50/5")
                    within = self._number("the seconds of max-src-conn-rate")
                    if not within:
                        self._wrong("max-src-conn-rate in no time", "write 50/5")
                case "overload":
                    if not self._skip("<"):
                        self._wrong("overload needs a table", "write overload <bruteforce>")
                    table = self._table_name()
                    if self._at_word("flush"):
                        self._take()
                        flush = True
                        everywhere = self._at_word("global") and bool(self._take())
                case "max-src-states" | "max-src-nodes" as other:
                    part.idle.append(f"{other} {self._number(other)}: use max-src-conn, which counts connections")
                case "source-track":
                    if self._at_word("global", "rule"):
                        self._take()
                case "no-sync" | "if-bound" | "floating" | "sloppy" | "pflow":
                    pass
                case other:
                    self._number(f"the timeout {other}")
        if table and not connections and not count:
            self._wrong("overload without a limit of a source", "add max-src-conn or max-src-conn-rate")
        if not (total or connections or count):
            return None
        rate = RateSettings(connections, count, Seconds(within or 5), table)
        return Limits(rate, total, flush, everywhere)

    def _redirect(self) -> Redirect:
        hosts = self._hosts()
        port = 0
        if self._at_word("port"):
            self._take()
            port = self._ports()[0][0]
        self._pool_options()
        if len(hosts) != 1 or not isinstance(hosts[0], Within | Own) or hosts[0].negated:
            self._wrong("rdr-to needs one address", "write rdr-to 127.0.0.1 port spamd")
        found = hosts[0]
        network = found.networks[0] if isinstance(found, Within) else None
        return Redirect(network.text if network else host_text(found), port, network)

    def _translation(self) -> None:
        """Take what stands behind nat-to and its like: an address or a list, a port, how one is chosen."""
        if self._at_word("inet", "inet6"):
            self._take()
            self._expect("from")
        if self._peek_mark("("):
            self._parenthesis()
        else:
            self._hosts()
        for word, read in (("port", self._ports), ("to", self._hosts)):
            if self._at_word(word):
                self._take()
                read()
        self._pool_options()

    def _pool_options(self) -> None:
        while self._at_word("bitmask", "random", "source-hash", "round-robin", "static-port", "sticky-address"):
            if self._take().text == "source-hash" and self._peek().text.startswith("0x"):
                self._take()

    # --- parts of rules -------------------------------------------------------------------------------------

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
        return tuple(cover(low, high))

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

    def _remark(self, heed: Heed, why: str) -> None:
        self._conf.remarks.append(Remark(self._file, self._line, heed, self._shown(), why))

    def _wrong(self, problem: str, remedy: str, line: int = 0) -> NoReturn:
        raise PfConfError(self._file, line or self._peek().line, problem, remedy)


@dataclass(slots=True)
class _Parts:
    """What was read of a rule so far."""

    quick: bool = False
    direction: str = ""
    log: str = ""
    interfaces: list[Interface] = field(default_factory=list)
    family: int = 0
    protocols: set[str] = field(default_factory=set)
    sources: list[Host] = field(default_factory=list)
    source_ports: Ports = ALL_PORTS
    targets: list[Host] = field(default_factory=list)
    ports: Ports = ALL_PORTS
    syn: bool = True
    limits: Limits | None = None
    redirect: Redirect | None = None
    unknown: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)

    def now(self) -> None:
        """The rule is `quick`."""
        self.quick = True


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
    return re.fullmatch(r"lo[0-9]*", name) is not None
