"""What becomes of each statement of a pf.conf here, line by line, and the settings that mean the same."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from gatepost.gate.decide import Verdict
from gatepost.gate.pfconf.cursor import host_text
from gatepost.gate.pfconf.rules import EGRESS, PORTS, SMTP, PfRules, not_applied, tarpits
from gatepost.gate.pfconf.words import Action, Heed, Host, InTable, Limits, Own, Remark, Routed, Rule, Within
from gatepost.gate.prefix import WIDTHS

_OTHERS: Final = {
    frozenset(("icmp",)): "the kernel answers it",
    frozenset(("icmp6",)): "the kernel answers it",
    frozenset(("udp",)): "no UDP passes the gate; peers of the sync are named in its settings",
}


def report(rules: PfRules) -> tuple[Remark, ...]:
    """Return what becomes of every statement, in their order, then what holds for the whole file."""
    conf = rules.conf
    remarks = [*conf.remarks, *(_remark(rules, rule) for rule in conf.rules)]
    files = list(dict.fromkeys(each.file for each in remarks))
    ordered = sorted(remarks, key=lambda each: (each.file != conf.file, files.index(each.file), each.line))
    return (*ordered, *_whole(rules))


def remark_text(remark: Remark) -> str:
    """Write a remark in one line: `/etc/pf.conf:52: mapped       pass ...: why`."""
    return f"{remark.file}:{remark.line}: {remark.heed.value:<11} {remark.statement}: {remark.why}"


def as_toml(rules: PfRules, path: Path) -> str:
    """Return the settings that go with a pf.conf; the rules themselves stay in the file."""
    lines = ["[gate]", f"rules = {json.dumps(str(path))}", 'mode = "spamd"']
    if rules.conf.table_entries is not None:
        lines.append(f"tables_max = {rules.conf.table_entries}")
    if rules.outside and not rules.guessed:
        lines.append(f"outside = {json.dumps(sorted(rules.outside))}")
    if not rules.skips_loopback:
        lines.append("exempt = []  # there is no `set skip on lo`")
    if rules.contact_log or any(step.log and step.verdict is Verdict.PASS for step in rules.steps(4, SMTP)):
        lines.append('connection_log = "/var/log/gatepost/connections"')
    files = {name: table.files for name, table in rules.tables.items() if table.files}
    if files:
        lines += ["", "[gate.tables]"]
        lines += [f"{json.dumps(name)} = {json.dumps(paths[0])}" for name, paths in sorted(files.items())]
    for kind, port in sorted(PORTS.items()):
        limits = next(iter(rules.rates(port).values()), None)
        if limits is not None:
            lines += ["", f"[gate.rates.{kind}]", *_rate_lines(limits)]
    return "\n".join(lines) + "\n"


def _rate_lines(limits: Limits) -> Iterator[str]:
    rate = limits.rate
    if limits.total:
        yield f"total = {limits.total}"
    if rate.connections:
        yield f"connections = {rate.connections}"
    if rate.count:
        yield f"count = {rate.count}"
        yield f"within = {int(rate.within)}"
    yield f"overload = {json.dumps(rate.overload)}"


def _remark(rules: PfRules, rule: Rule) -> Remark:
    heed, why = _heed(rules, rule)
    notes = [*rule.idle]
    if heed is Heed.MAPPED:
        notes += _notes(rules, rule)
    return Remark(rule.file, rule.line, heed, rule.text, "; ".join((why, *notes)))


def _heed(rules: PfRules, rule: Rule) -> tuple[Heed, str]:
    """Return whether a rule counts here, and why not, or what it does."""
    if rule.action is Action.MATCH:
        return _of_match(rule)
    if rule.protocols and "tcp" not in rule.protocols:
        return Heed.IGNORED, _OTHERS.get(rule.protocols, "only TCP passes the gate")
    if rule.sources and all(isinstance(each, Routed) and not each.negated for each in rule.sources):
        return Heed.UNSUPPORTED, "only the kernel sees it: [gate.kernel] urpf = true drops it there"
    if why := not_applied(rule):
        return Heed.UNSUPPORTED, f"never applied: {why}"
    if rule.direction == "out":
        return _of_outbound(rules, rule)
    own = [str(each.name) for each in rule.sources if isinstance(each, Own) and not each.negated]
    if own and len(own) == len(rule.sources):
        return Heed.UNSUPPORTED, f"never applied: {', '.join(own)} is this machine itself"
    ports = [port for port in PORTS.values() if any(low <= port <= high for low, high in rule.ports)]
    if not ports:
        return Heed.IGNORED, "none of the ports of mail"
    if not any(rules.comes_in_on(rule.interfaces, loopback=loopback) for loopback in (False, True)):
        return (
            Heed.UNSUPPORTED,
            "never applied: no mail comes in there; name the interface in gate.outside if it does",
        )
    if not _is_reached(rules, rule, ports):
        return Heed.IGNORED, "no connection to a port of mail comes as far as this"
    return Heed.MAPPED, f"{_shown(ports)}: {_effect(rule)}"


def _of_match(rule: Rule) -> tuple[Heed, str]:
    if rule.log:
        return Heed.UNSUPPORTED, "a match rule decides nothing: write its log in the rule that does"
    return Heed.IGNORED, "a match rule decides nothing"


def _of_outbound(rules: PfRules, rule: Rule) -> tuple[Heed, str]:
    if rule.action is Action.BLOCK:
        return Heed.UNSUPPORTED, "what goes out is not filtered here"
    if rule.log and rules.contact_log == rule.log and any(low <= SMTP <= high for low, high in rule.ports):
        return Heed.MAPPED, f"connections that we make to port {SMTP} are logged ({rule.log}) and make hosts white"
    return Heed.IGNORED, "what goes out is not filtered here"


def _is_reached(rules: PfRules, rule: Rule, ports: Sequence[int]) -> bool:
    """Tell whether any connection can come as far as a rule."""
    return any(
        step.line == rule.line
        for port in ports
        for version in WIDTHS
        for loopback in (False, True)
        for step in rules.steps(version, port, loopback=loopback)
    )


def _effect(rule: Rule) -> str:
    whom = ", ".join(map(host_text, rule.sources)) or "everybody"
    if rule.action is Action.BLOCK:
        return f"{whom}: refused"
    if tarpits(rule.redirect):
        held = "held and stuttered at" if rule.sources else "greylisted"
        return f"{whom}: {held}"
    return f"{whom}: let in"


def _notes(rules: PfRules, rule: Rule) -> Iterator[str]:
    """Say what an operator should know of a rule that counts."""
    if rule.limits is not None:
        yield _limit_text(rule.limits)
    if rule.log and rule.action is Action.PASS and not tarpits(rule.redirect) and rule.direction != "out":
        yield f"logged ({rule.log})"
    elif rule.log and rule.action is Action.PASS and tarpits(rule.redirect):
        yield "its log makes nobody white: who is held is not a mail server's friend yet"
    redirect = rule.redirect
    if redirect is not None and redirect.network is not None and not rule.family and tarpits(redirect):
        yield f"IPv{redirect.network.version} only, by the address of rdr-to"
        if redirect.network.version == 4 and any(low <= SMTP <= high for low, high in rule.ports):
            yield _ipv6(rule)
    elif redirect is not None and not tarpits(redirect):
        yield "the listener of the port that was dialled answers"
    targets = [each for each in rule.targets if _is_taken_as_ours(each)]
    if targets:
        yield f"{', '.join(map(host_text, targets))}: taken as our own address"
    odd = [each.name for each in rule.sources if isinstance(each, InTable) and each.name not in rules.tables]
    if odd:
        yield f"nowhere declared, empty until filled: {', '.join(odd)}"
    if any(each.name == EGRESS for each in rule.interfaces):
        yield "egress: every interface but lo"


def _is_taken_as_ours(host: Host) -> bool:
    return isinstance(host, Within | InTable) and not host.negated


def _ipv6(rule: Rule) -> str:
    if rule.sources:
        return "IPv6 members of its tables are held on port 25 too"
    return "IPv6 senders that no table knows are met by gate.ipv6 on port 25"


def _limit_text(limits: Limits) -> str:
    rate, parts = limits.rate, []
    if limits.total:
        parts.append(f"{limits.total} connections in all")
    if rate.connections:
        parts.append(f"{rate.connections} of one source")
    if rate.count:
        parts.append(f"{rate.count} new ones of one source in {int(rate.within)} s")
    text = f"at most {', '.join(parts)}; by each worker"
    if rate.overload:
        text += f"; who has more goes into <{rate.overload}>, and all its connections are cut"
    return text


def _shown(ports: Sequence[int]) -> str:
    if len(ports) == len(PORTS):
        return "every port"
    return "port " + ", ".join(map(str, sorted(ports)))


def _whole(rules: PfRules) -> Iterator[Remark]:
    """Say what holds for the whole file."""
    conf = rules.conf
    last = max((rule.line for rule in conf.rules if rule.file == conf.file), default=1)
    if rules.guessed:
        why = "the only interface that rules name: taken as where mail comes in"
        yield Remark(conf.file, last, Heed.MAPPED, ", ".join(sorted(rules.outside)), why)
    for port in (SMTP, PORTS["submission"], PORTS["imap"]):
        step = rules.steps(4, port)[-1]
        if not step.line:
            yield Remark(
                conf.file, last, Heed.MAPPED, f"port {port}", "no rule is for everybody: who is left passes"
            )
