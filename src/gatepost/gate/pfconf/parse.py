"""pf.conf read: statements to data (`words`), each with a remark when nothing here heeds it. See pf.conf(5).

A statement that pfctl would not take is an error with its line. One that it takes and we cannot follow is kept as a
remark; a rule with a condition that nobody here can ask is kept with that condition named, and never applied.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gatepost.base.units import Seconds
from gatepost.gate.pfconf.cursor import Cursor, host_text, is_loopback
from gatepost.gate.pfconf.lex import MACRO_MAX, Lexer, PfConfError, Sort, Word
from gatepost.gate.pfconf.words import (
    ALL_PORTS,
    PFLOG,
    Action,
    Conf,
    DeclaredTable,
    Heed,
    Host,
    Interface,
    Limits,
    Own,
    Ports,
    Redirect,
    Remark,
    Rule,
    Within,
)
from gatepost.gate.settings import RateSettings
from gatepost.gate.table import Entry

INCLUDES_MAX: Final = 8  # files in files
FILES_MAX: Final = 32  # in all
RULES_MAX: Final = 2_000
_LETTERS: Final = re.compile(r"[FSRPAUEW]*")
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
        if self._depth >= INCLUDES_MAX:
            raise PfConfError(
                self._file, line, f"files include files {INCLUDES_MAX} deep", "does one include itself?"
            )
        self._conf.included += 1
        if self._conf.included > FILES_MAX:
            raise PfConfError(self._file, line, f"more than {FILES_MAX} files are included", "write them in fewer")
        if self._read is None:
            raise PfConfError(self._file, line, "files are not included here", "put its text in the place")
        try:
            text = self._read(path)
        except (OSError, ValueError) as wrong:
            raise PfConfError(self._file, line, f"{path} cannot be read: {wrong}") from wrong
        _Reader(self._conf, path, self._read, self._depth + 1).read_all(text)


class _Statement(Cursor):
    """The words of one statement, read from the left."""

    def __init__(self, words: list[Word], file: Path, conf: Conf, include: Callable[[Path, int], None]) -> None:
        super().__init__(words, file)
        self._conf = conf
        self._include = include

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
                    self._wrong(f"more than {RULES_MAX} rules", "use tables and lists", self._line)
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
            if self._take().text == "quick":
                part.quick = True
            else:
                self._log(part)
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
            quick=part.quick,
            direction=part.direction,
            log=part.log,
            interfaces=tuple(part.interfaces),
            family=part.family,
            protocols=frozenset(part.protocols),
            sources=tuple(part.sources),
            source_ports=part.source_ports,
            targets=tuple(part.targets),
            ports=part.ports,
            syn=part.syn,
            limits=part.limits,
            redirect=part.redirect,
            unknown=tuple(part.unknown),
            idle=tuple(part.idle),
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
                if self._peek_mark("("):
                    self._parenthesis()
                else:
                    self._value("the queue")
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

        def one() -> None:
            while self._is_mark(self._peek(), "!", "=", "!=", "<", ">", "<=", ">="):
                self._take()
            self._value("a value")
            if self._skip("/") or self._skip("><") or self._skip("<>"):
                self._value("a value")

        self._listed(one)

    def _flags(self) -> bool:
        """Tell whether the packet that opens a connection, with SYN and no ACK, matches `flags a/b`."""
        if self._at_word("any"):
            self._take()
            return True
        wanted = "" if self._peek_mark("/") else self._value("the flags")
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
        rate = RateSettings(
            connections=connections, count=count, within=Seconds(within or 5), total=total, overload=table
        )
        return Limits(rate, flush, everywhere)

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

    def _remark(self, heed: Heed, why: str) -> None:
        self._conf.remarks.append(Remark(self._file, self._line, heed, self._shown(), why))


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
