"""Decide by a pf.conf: the last rule that matches, or the first with `quick`, as for one connection that came in.

    rules in their order --for (family, port)--> Steps: quick ones in order, then the others from the last to the
    first; none behind one that is for everybody --with tables at hand--> PfPlan: only what can match now

PF's rules are about packets. Here they are asked once for each connection, by its source and the port that its
listener stands for (`PORTS`). Where PF would redirect to spamd the verdict is BLACK when the source was matched by
a table, else GREY. A connection from 127.0.0.0/8 or ::1 came in on lo, any other on egress.

IPv6: a rule that redirects to an IPv4 address is for IPv4 alone. On port 25 its tables hold IPv6 sources all the
same, and who is in none of them is met by `gate.ipv6`, not by a rule that blocks or passes all that is left.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatepost.gate.decide import GREYTRAP, Decision, Look, Verdict
from gatepost.gate.pfconf.cursor import host_text, is_loopback
from gatepost.gate.pfconf.lex import TEXT_MAX, PfConfError
from gatepost.gate.pfconf.parse import parse
from gatepost.gate.pfconf.words import (
    ALL_PORTS,
    SPAMD_PORT,
    Action,
    Conf,
    DeclaredTable,
    Host,
    InTable,
    Interface,
    Limits,
    Named,
    Own,
    Redirect,
    Routed,
    Rule,
    Within,
)
from gatepost.gate.prefix import WIDTHS, Prefix
from gatepost.gate.settings import Ipv6
from gatepost.gate.table import Tables

PORTS: Final = {
    "lmtp": 24,
    "mx": 25,
    "pop3": 110,
    "imap": 143,
    "https": 443,
    "submissions": 465,
    "submission": 587,
    "imaps": 993,
    "pop3s": 995,
}
"""The port by which rules see a kind of listener, whatever it listens on."""
SMTP: Final = PORTS["mx"]
EGRESS: Final = "egress"
NO_RULE: Final = "no rule matched: pass"
_EPHEMERAL: Final = (1024, 65_535)  # the ports that clients connect from
_LOOPBACK: Final = 127
_POLICY: Final = {
    Ipv6.BYPASS: (Verdict.PASS, "pass inet6 from any to smtp: ipv6 = bypass"),
    Ipv6.GREYLIST: (Verdict.GREY, "rdr-to spamd inet6 from any to smtp: ipv6 = greylist"),
    Ipv6.BLOCK: (Verdict.BLOCK, "block inet6 from any to smtp: ipv6 = block"),
}

Holds = Callable[[str, int, int], bool]
"""Tell whether a table, by name, holds an address (family, number)."""


@dataclass(frozen=True, slots=True)
class Ruling(Decision):
    """A decision with what its rule says besides: the line it stands in (0: in none), log channel, and limits."""

    line: int = 0
    log: str = ""
    """Where the rule logs to: `pflog1`; empty: nowhere."""
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One rule for one family and port, with what it does; no sources at all are everybody."""

    name: str
    line: int
    verdict: Verdict
    sources: tuple[Within | InTable, ...] = ()
    log: str = ""
    limits: Limits | None = None
    policy: bool = False
    """IPv6 that no rule knows: the verdict is that of `gate.ipv6`."""

    @property
    def meets_lists(self) -> bool:
        """Tell whether who it is for is looked up in spamd's own lists too."""
        return self.policy or self.verdict is Verdict.GREY

    def matches(self, version: int, number: int, holds: Holds) -> bool:
        """Tell whether it is for an address."""
        return not self.sources or any(_is_of(each, version, number, holds) for each in self.sources)

    def names(self, port: int, asked: "Asked") -> tuple[str, ...]:
        """Return the tables that say on which lists an address is: its own, and spamd's where they are met."""
        names = [each.name for each in self.sources if isinstance(each, InTable) and not each.negated]
        if self.meets_lists and (port == SMTP or not names):
            names += [*asked.lists, GREYTRAP]
        return tuple(dict.fromkeys(names))


_NO_RULE: Final = Step(NO_RULE, 0, Verdict.PASS)


@dataclass(frozen=True, slots=True)
class Asked:
    """What decisions depend on besides the rules: `gate.ipv6`, spamd's own lists, and `gate.greylist`."""

    ipv6: Ipv6 = Ipv6.BYPASS
    lists: tuple[str, ...] = ()
    greylist: bool = True


class PfRules:
    """The rules of one pf.conf, ready to decide."""

    def __init__(self, conf: Conf, outside: Iterable[str] = ()) -> None:
        """Make ready; `outside` are the interfaces that mail comes in on. Raises PfConfError."""
        self.conf = conf
        self.outside, self.guessed = _outside(conf, frozenset(outside))
        for rule in conf.rules:
            if rule.action is Action.MATCH and rule.redirect is not None and rule.direction != "out":
                raise PfConfError(rule.file, rule.line, "match with rdr-to", "write rdr-to in the pass rule")
        self._steps = {
            (version, port, loopback): self._ordered(version, port, loopback=loopback)
            for version in WIDTHS
            for port in PORTS.values()
            for loopback in (False, True)
        }

    @classmethod
    def load(cls, source: Path | str, *, outside: Iterable[str] = ()) -> "PfRules":
        """Read a file, or a text; raises PfConfError with file, line and remedy."""
        if isinstance(source, str):
            return cls(parse(source, Path("pf.conf")), outside)
        try:
            return cls(parse(_read(source), source, _read), outside)
        except (OSError, UnicodeDecodeError) as wrong:
            raise PfConfError(source, 0, f"it cannot be read: {wrong}", "gate.rules names a pf.conf") from wrong

    @property
    def tables(self) -> Mapping[str, DeclaredTable]:
        """The tables that are declared."""
        return self.conf.tables

    @property
    def used_tables(self) -> frozenset[str]:
        """The names of all tables that rules ask or fill."""
        hosts = (each for rule in self.conf.rules for each in (*rule.sources, *rule.targets))
        asked = {each.name for each in hosts if isinstance(each, InTable)}
        return frozenset(asked | {rule.limits.rate.overload for rule in self.conf.rules if rule.limits} - {""})

    @property
    def skips_loopback(self) -> bool:
        """Tell whether connections on lo pass unasked."""
        return any(is_loopback(name) for name in self.conf.skipped)

    @property
    def contact_log(self) -> str:
        """Where connections that we make to port 25 are logged to; empty: nowhere."""
        going = [rule for rule in self.conf.rules if rule.action is not Action.MATCH and self._goes_out(rule)]
        first = next((rule for rule in going if rule.quick), going[-1] if going else None)
        return first.log if first is not None and first.action is Action.PASS else ""

    def rates(self, port: int) -> Mapping[str, Limits]:
        """Return the limits of the rules that let connections to a port pass, by the rule's text."""
        steps = (step for version in WIDTHS for step in self.steps(version, port))
        return {step.name: step.limits for step in steps if step.limits is not None}

    def steps(self, version: int, port: int, *, loopback: bool = False) -> tuple[Step, ...]:
        """Return what can match a connection, in the order in which the first that matches decides."""
        found = self._steps.get((version, port, loopback))
        return found if found is not None else self._ordered(version, port, loopback=loopback)

    def decide(
        self, version: int, number: int, port: int, holds: Holds, ipv6: Ipv6, *, lists: Sequence[str] = (),
        greylist: bool = True,
    ) -> Ruling:  # fmt: skip
        """Return what becomes of a connection from an address to a port; `lists` are spamd's own."""
        asked = Asked(ipv6, tuple(lists), greylist)
        loopback = _is_loopback(version, number)
        if loopback and self.skips_loopback:
            return self._skipped
        for step in self.steps(version, port, loopback=loopback):
            if step.matches(version, number, holds):
                return _ruling(step, version, number, port, holds, asked)
        raise AssertionError("the last step is for everybody")

    def explain(
        self, version: int, number: int, port: int, holds: Holds, ipv6: Ipv6, *, lists: Sequence[str] = (),
        greylist: bool = True,
    ) -> tuple[Look, ...]:  # fmt: skip
        """Return every rule that was looked at, in the file's order; the last one decided."""
        ruling = self.decide(version, number, port, holds, ipv6, lists=lists, greylist=greylist)
        if ruling == self._skipped and self.skips_loopback:
            return (Look(ruling.rule, True, "it came in on lo"),)
        loopback, looks = _is_loopback(version, number), list[Look]()
        for rule in self.conf.rules:
            why = self._why_not(rule, version, port, loopback=loopback)
            step = None if why else self._step(rule, version)
            if step is None or not step.matches(version, number, holds):
                looks.append(Look(self._name(rule), False, why or _not_from(rule, version)))
                continue
            if not ruling.line:
                looks.append(Look(self._name(rule), False, "unlisted IPv6 to port 25 is met by gate.ipv6"))
            elif not rule.quick:
                looks.append(Look(self._name(rule), True, "not quick: a later one may decide"))
            if rule.quick:
                break
        among = f"in {', '.join(ruling.lists)}: " if ruling.lists else ""
        return (*looks, Look(ruling.rule, True, f"decided: {among}{ruling.verdict.value}"))

    def plan(self, port: int, tables: Tables, asked: Asked, exempt: Sequence[Prefix] = ()) -> "PfPlan":
        """Return what decides for a port as long as the tables stay as they are."""
        return PfPlan(self, port, tables, asked, exempt)

    @property
    def _skipped(self) -> Ruling:
        return Ruling(Verdict.PASS, "set skip on lo", line=self.conf.skip_line)

    # --- making ready ---------------------------------------------------------------------------------------

    def _ordered(self, version: int, port: int, *, loopback: bool) -> tuple[Step, ...]:
        """Put the rules that can match in the order in which the first match decides."""
        rules = [
            rule
            for rule in self.conf.rules
            if rule.action is not Action.MATCH and not self._why_not(rule, version, port, loopback=loopback)
        ]
        ordered = [rule for rule in rules if rule.quick] + [rule for rule in reversed(rules) if not rule.quick]
        gap = version == 6 and port == SMTP and not loopback and self._greylists()
        steps: list[Step] = []
        for rule in ordered:
            step = self._step(rule, version)
            if step is None:
                continue
            if gap and not step.sources and rule.ports == ALL_PORTS and not rule.family:
                break
            steps.append(step)
            if not step.sources:
                return tuple(steps)
        return (*steps, Step("", 0, Verdict.PASS, policy=True) if gap else _NO_RULE)

    def _greylists(self) -> bool:
        """Tell whether IPv4 senders that no table knows are redirected, and IPv6 ones cannot be."""
        last = self._ordered(4, SMTP, loopback=False)[-1]
        return last.verdict is Verdict.GREY

    def _step(self, rule: Rule, version: int) -> Step | None:
        """Return what a rule does for a family; nothing where none of its sources is of it."""
        sources = tuple(each for host in rule.sources if (each := _asked(host, version)) is not None)
        if rule.sources and not sources:
            return None
        asked = () if True in sources else tuple(each for each in sources if not isinstance(each, bool))
        verdict = Verdict.PASS if rule.action is Action.PASS else Verdict.BLOCK
        if verdict is Verdict.PASS and tarpits(rule.redirect):
            verdict = Verdict.GREY
            if self._only_tables(rule, version):
                asked = tuple(each for each in asked if isinstance(each, InTable) and not each.negated)
                if not asked:
                    return None
        limits = rule.limits if verdict is Verdict.PASS else None
        return Step(self._name(rule), rule.line, verdict, asked, rule.log, limits)

    @staticmethod
    def _only_tables(rule: Rule, version: int) -> bool:
        """Tell whether only the members of a rule's tables are met by it: IPv6, and it redirects to IPv4."""
        return version == 6 and not _translates(rule, 6)

    def _why_not(self, rule: Rule, version: int, port: int, *, loopback: bool) -> str:
        """Return why a rule cannot match a connection of a family to a port, whatever its source; or nothing."""
        if rule.action is Action.MATCH:
            return "match rules decide nothing"
        if why := not_applied(rule):
            return why
        if rule.direction == "out":
            return "it is for what goes out"
        if rule.protocols and "tcp" not in rule.protocols:
            return "not tcp"
        if not _within(port, rule.ports):
            return f"not for port {port}"
        if rule.family not in (0, version):
            return f"not for IPv{version}"
        if not _translates(rule, version) and not (version == 6 and port == SMTP and tarpits(rule.redirect)):
            return f"it redirects to {rule.redirect.address if rule.redirect else ''}: not for IPv{version}"
        if not self.comes_in_on(rule.interfaces, loopback=loopback):
            return f"not on {', '.join(each.name for each in rule.interfaces)}"
        if rule.targets and not any(self._is_target(each, version, loopback=loopback) for each in rule.targets):
            return f"not to {', '.join(map(host_text, rule.targets))}"
        return ""

    def comes_in_on(self, interfaces: tuple[Interface, ...], *, loopback: bool) -> bool:
        """Tell whether a connection came in on one of these interfaces; none are any."""
        if not interfaces:
            return True
        return any(self._is_on(each.name, loopback=loopback) is not each.negated for each in interfaces)

    def _is_on(self, name: str, *, loopback: bool) -> bool:
        if name in ("any", "all"):
            return True
        if is_loopback(name):
            return loopback
        return not loopback and self.is_outside(name)

    def is_outside(self, name: str) -> bool:
        """Tell whether mail comes in on an interface, or a group of them by name (`em` for em0)."""
        return name == EGRESS or any(each == name or each.rstrip("0123456789") == name for each in self.outside)

    @staticmethod
    def _is_target(host: Host, version: int, *, loopback: bool) -> bool:
        """Tell whether a connection to us is to a rule's target: addresses and tables are taken as ours."""
        match host:
            case Within(networks=networks, negated=negated):
                of_family = [each for each in networks if each.version == version]
                return any(_is_loopback(version, each.number) is loopback for each in of_family) and not negated
            case Own(name=name, negated=negated):
                return (is_loopback(name) is loopback or name == "self") is not negated
            case Routed(negated=negated):
                return negated
            case InTable(negated=negated):
                return not negated
            case Named():
                return False

    def _name(self, rule: Rule) -> str:
        file = "" if rule.file == self.conf.file else f" of {rule.file}"
        return f"{rule.text} (line {rule.line}{file})"

    def _goes_out(self, rule: Rule) -> bool:
        """Tell whether a rule is for connections that we make to port 25 of anybody."""
        return (
            rule.direction != "in"
            and (not rule.protocols or "tcp" in rule.protocols)
            and _within(SMTP, rule.ports)
            and rule.family in (0, 4)
            and not rule.unknown
            and not rule.targets
            and all(host.negated or isinstance(host, Own) for host in rule.sources)
            and self.comes_in_on(rule.interfaces, loopback=False)
        )


class PfPlan:
    """The same decisions for one port, made ready: the tables at hand, the answers made before."""

    __slots__ = ("_checks", "_exempt", "_last")

    def __init__(
        self, rules: PfRules, port: int, tables: Tables, asked: Asked, exempt: Sequence[Prefix] = ()
    ) -> None:
        """Take the tables as they are now; make another plan when their version is another."""
        skipped = [Prefix(4, 8, _LOOPBACK << 24), Prefix(6, 128, 1)] if rules.skips_loopback else []
        away = Ruling(Verdict.PASS, "exempt: set skip on lo", line=rules.conf.skip_line)
        self._exempt = {
            version: tuple(
                (WIDTHS[version] - each.length, each.number >> WIDTHS[version] - each.length, away)
                for each in (*skipped, *exempt)
                if each.version == version
            )
            for version in WIDTHS
        }
        self._checks: dict[int, tuple[tuple[Asks, _Answers], ...]] = {}
        self._last: dict[int, Ruling] = {}
        for version in WIDTHS:
            steps = rules.steps(version, port)
            answers = (_Answers(step, port, tables, asked) for step in steps)
            self._checks[version] = tuple(check for each in answers for check in each.checks(tables))
            self._last[version] = _answer(steps[-1], (), asked)

    def decide(self, version: int, number: int) -> Ruling:
        """Return what becomes of a connection from an address, as `PfRules.decide` does."""
        for shift, network, away in self._exempt[version]:
            if number >> shift == network:
                return away
        for holds, answers in self._checks[version]:
            if holds(version, number):
                return answers.find(version, number)
        return self._last[version]


Asks = Callable[[int, int], bool]
"""Tell whether an address (family, number) is one of those that are meant."""


class _Answers:
    """What one step of a plan answers, by the lists that an address is on; tables without entries are left out."""

    __slots__ = ("_asked", "_known", "_listing", "step")

    def __init__(self, step: Step, port: int, tables: Tables, asked: Asked) -> None:
        self.step = step
        self._asked = asked
        self._known: dict[tuple[str, ...], Ruling] = {}
        names = step.names(port, asked)
        self._listing = tuple(
            (name, tables[name].holds) for name in names if name in tables and tables[name].filled
        )

    def checks(self, tables: Tables) -> "Iterator[tuple[Asks, _Answers]]":
        """Return what is asked of an address to know whether it is this step's, each with what answers then."""
        for source in self.step.sources:
            if not isinstance(source, InTable) or source.negated:
                yield _asking(source, tables), self
        for name, holds in self._listing:
            if not self.step.sources or any(each == InTable(name) for each in self.step.sources):
                yield holds, self

    def find(self, version: int, number: int) -> Ruling:
        """Return the answer for an address of this step."""
        lists = tuple([name for name, holds in self._listing if holds(version, number)])
        found = self._known.get(lists)
        if found is None:
            found = self._known[lists] = _answer(self.step, lists, self._asked)
        return found


def tarpits(redirect: Redirect | None) -> bool:
    """Tell whether a redirection leads to spamd."""
    return redirect is not None and redirect.port == SPAMD_PORT


def not_applied(rule: Rule) -> str:
    """Return why a rule is never applied here, or nothing."""
    if rule.unknown:
        return f"nobody here can ask for {', '.join(rule.unknown)}"
    if not rule.syn:
        return "its flags are not those of a packet that opens a connection"
    if not any(low <= _EPHEMERAL[0] and high >= _EPHEMERAL[1] for low, high in rule.source_ports):
        return "the port that a client connects from is not asked for"
    unknown = [host_text(each) for each in rule.sources if isinstance(each, Named)]
    if unknown:
        return f"names are not looked up: {', '.join(unknown)}"
    if rule.redirect is not None and not tarpits(rule.redirect) and not _is_here(rule.redirect):
        return f"nothing is redirected to {rule.redirect.address}"
    return ""


def _is_here(redirect: Redirect) -> bool:
    network = redirect.network
    return network is None or (network.host and _is_loopback(network.version, network.number))


def _translates(rule: Rule, version: int) -> bool:
    """Tell whether a rule without redirection, or with one to an address of this family."""
    network = rule.redirect.network if rule.redirect is not None else None
    return network is None or network.version == version


def _asked(host: Host, version: int) -> Within | InTable | bool | None:
    """Return what is asked of a source: True where it is everybody, None where it is nobody of this family."""
    match host:
        case Within(networks=networks, negated=negated):
            of_family = tuple(each for each in networks if each.version == version)
            return Within(of_family, negated) if of_family else None
        case InTable():
            return host
        case Own(negated=negated) | Routed(negated=negated):
            return True if negated else None
        case Named():
            return None


def _is_of(source: Within | InTable, version: int, number: int, holds: Holds) -> bool:
    match source:
        case InTable(name=name, negated=negated):
            return holds(name, version, number) is not negated
        case Within(networks=networks, negated=negated):
            return any(each.holds(version, number) for each in networks) is not negated


def _asking(source: Within | InTable, tables: Tables) -> Asks:
    def holds(name: str, version: int, number: int) -> bool:
        return name in tables and tables[name].holds(version, number)

    def asked(version: int, number: int) -> bool:
        return _is_of(source, version, number, holds)

    return asked


def _answer(step: Step, lists: tuple[str, ...], asked: Asked) -> Ruling:
    verdict, name = _POLICY[asked.ipv6] if step.policy else (step.verdict, step.name)
    if step.meets_lists and lists:
        verdict = Verdict.BLACK
    elif verdict is Verdict.GREY and not asked.greylist:
        verdict, name = Verdict.PASS, f"{name}: greylist = false"
    if lists:
        name = f"{name}: in {', '.join(lists)}"
    return Ruling(verdict, name, lists, line=step.line, log=step.log, limits=step.limits)


def _ruling(step: Step, version: int, number: int, port: int, holds: Holds, asked: Asked) -> Ruling:
    lists = tuple(name for name in step.names(port, asked) if holds(name, version, number))
    return _answer(step, lists, asked)


def _not_from(rule: Rule, version: int) -> str:
    if not rule.sources:
        return f"not for IPv{version}"
    return f"not from {', '.join(map(host_text, rule.sources))}"


def _within(port: int, spans: Iterable[tuple[int, int]]) -> bool:
    return any(low <= port <= high for low, high in spans)


def _is_loopback(version: int, number: int) -> bool:
    return number >> 24 == _LOOPBACK if version == 4 else number == 1


def _outside(conf: Conf, given: frozenset[str]) -> tuple[frozenset[str], bool]:
    """Return the interfaces that mail comes in on, and whether that was guessed: there is one only."""
    asked = [
        rule for rule in conf.rules if rule.direction != "out" and (not rule.protocols or "tcp" in rule.protocols)
    ]
    places = {each.name: rule for rule in reversed(asked) for each in rule.interfaces}
    names = [name for name in places if not is_loopback(name) and name not in ("any", "all", "rdomain")]
    if given or not names or EGRESS in names:
        return given, False
    if len(names) > 1:
        rule = min((places[name] for name in names), key=lambda each: each.line)
        raise PfConfError(
            rule.file,
            rule.line,
            f"on which of {', '.join(sorted(names))} does mail come in?",
            "name it in gate.outside, or write on egress",
        )
    return frozenset(names), True


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(TEXT_MAX + 1)
