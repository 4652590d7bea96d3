"""`gatepost rules test`: which rule decides about a mail, and why none before it did."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Annotated, Final

import typer

from gatepost.accounts.directory import Directory
from gatepost.accounts.password import Hasher
from gatepost.base.address import Address, ReversePath
from gatepost.base.envelope import Client, Tls
from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting
from gatepost.base.units import seconds_text
from gatepost.cli.common import CLOCK, ConfigOption, Failed, JsonOption, now, print_json, say, with_databases
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox
from gatepost.config import Config
from gatepost.databases import Databases
from gatepost.policy.action import Delivery, Route, RouteKind, ToMailbox, ToRelay
from gatepost.policy.match import AllTables, Conditions, Facts, Rule, Unanswered, compile_tests
from gatepost.policy.policy import Policy
from gatepost.policy.rules import DEFAULT_RULES, Ruleset, load
from gatepost.policy.settings import PolicySettings

rules = typer.Typer(help="The rules of [policy].", no_args_is_help=True)

_USUAL: Final[Conditions] = {"from": "local", "for": "local"}
_TLS: Final = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at one rule: for which address, whether it matched and so decided, and if not, why."""

    address: str
    rule: str
    matched: bool
    why: str


@dataclass(slots=True)
class Trace:
    """The looks of one decision. The rules decide as ever; it only writes down what they answered."""

    settings: PolicySettings
    tables: AllTables
    looks: list[Look] = field(default_factory=list)
    smarthost: tuple[str, Route] | None = None
    """The entry of [policy.smarthosts] that counts for the sender."""

    def watched(self, ruleset: Ruleset) -> Ruleset:
        """Return the same rules, each look at one of them written down."""
        given = self.settings.rules or DEFAULT_RULES
        return replace(
            ruleset,
            rules=tuple(self._rule(rule, each.match) for rule, each in zip(ruleset.rules, given, strict=True)),
        )

    def _rule(self, rule: Rule, conditions: Conditions) -> Rule:
        def look(facts: Facts) -> bool:
            try:
                matched = rule.matches(facts)
                why = "" if matched else self._why(facts, conditions)
            except Unanswered:  # the table is asked, and all is looked at again
                self.looks[:] = [each for each in self.looks if each.address != str(facts.recipient)]
                raise
            self.looks.append(Look(str(facts.recipient), rule.text, matched, why))
            return matched

        return replace(rule, tests=(look,))

    def _why(self, facts: Facts, conditions: Conditions) -> str:
        """Return which conditions do not hold, each compiled alone by what compiles them together."""
        failed = []
        for key, value in {**_USUAL, **conditions}.items():
            alone = {"from": "any", "for": "any", key: value}
            if not all(test(facts) for test in compile_tests(alone, self.tables)):
                usual = "" if key in conditions else " (the default)"
                failed.append(f"not {key} {_shown(value)}{usual}: {_fact(key, facts)}")
        return "; ".join(failed)


@rules.callback()
def _one_word_each() -> None:
    """Keep `test` a word of the command, also while it is the only one."""


@rules.command("test")
def rules_test(
    source: Annotated[str, typer.Option("--from", help="The client's address.")],
    rcpt: Annotated[str, typer.Option("--rcpt", help="The recipient.")],
    sender: Annotated[str, typer.Option("--sender", help="The sender; empty is the null sender.")] = "",
    tag: Annotated[str, typer.Option("--tag", help="The listener's tag.")] = "",
    auth: Annotated[str, typer.Option("--auth", help="Who is logged in, as user@domain.")] = "",
    helo: Annotated[str, typer.Option("--helo", help="The name the client greets with.")] = "",
    rdns: Annotated[str, typer.Option("--rdns", help="The client's name in the DNS.")] = "",
    tls: Annotated[bool, typer.Option("--tls", help="The session is encrypted.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which rule decides about a recipient, why none before it did, and what comes of it; nothing is sent."""
    try:
        ip = str(ip_address(source))
    except ValueError as wrong:
        raise Failed(f"--from: {source!r} is no address: write 192.0.2.7 or 2001:db8::7") from wrong
    client = Client(ip, 0, "", 0, "test", tag, helo, rdns=rdns, tls=_TLS if tls else None, user=auth)
    origin = _address(sender, "--sender") if sender not in ("", "<>") else None
    recipient = _address(rcpt, "--rcpt")

    async def work(databases: Databases, settings: Config) -> tuple[Trace, tuple[Delivery, ...], Refusal | None]:
        trace, policy = await asyncio.to_thread(_policy, settings)
        trace.smarthost = policy.smarthost(origin)
        hasher = await asyncio.to_thread(Hasher, settings.accounts)
        directory = Directory(databases.mail, hasher, CLOCK, settings.accounts)
        return await _decide(trace, policy, client, origin, recipient, directory)

    trace, deliveries, refused = with_databases(config, work)
    if as_json:
        print_json(_as_json(trace, deliveries, refused))
        return
    for look in trace.looks:
        sign, why = ("DECIDES  ", "") if look.matched else ("   -     ", f": {look.why}")
        say(f"{sign}{look.address}: {look.rule}{why}")
    for delivery in deliveries:
        say(f"{recipient}: {_delivery(delivery)}{_because(delivery, trace)}")
    if refused is not None:
        say(f"{recipient}: refused: {_reply(refused)} ({refused.detail})")


async def _decide(
    trace: Trace, policy: Policy, client: Client, sender: ReversePath, recipient: Address, directory: Directory
) -> tuple[Trace, tuple[Delivery, ...], Refusal | None]:
    try:
        return trace, await policy.route(client, sender, recipient, directory=directory, now=now()), None
    except Refusal as refused:
        return trace, (), refused


def _policy(config: Config) -> tuple[Trace, Policy]:
    """Return the policy as the server builds it, watched; raises Failed. It reads files."""
    settings = config.policy
    try:
        ruleset = load(settings)
    except BadSetting as wrong:
        raise Failed(str(wrong)) from wrong
    trace = Trace(settings, ruleset.tables)
    return trace, Policy(settings, trace.watched(ruleset), own_names=(config.hostname,))


def _address(text: str, option: str) -> Address:
    if text == "postmaster":
        return Address(text, "")  # RFC 5321 §4.5.1
    try:
        return parse_mailbox(text.encode())
    except (BadAddress, UnicodeEncodeError) as wrong:
        raise Failed(f"{option}: {text!r} is no address: write user@domain") from wrong


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _fact(key: str, facts: Facts) -> str:
    """Say what a condition looked at."""
    match key:
        case "from":
            return f"{facts.ip} is {'' if facts.local else 'not '}local"
        case "for":
            kind = "this machine's name" if facts.local_name else "a domain of ours" if facts.own else "not ours"
            return f"{facts.recipient.domain or 'no domain'} is {kind}"
        case "auth":
            return f"logged in as {facts.user}" if facts.user else "nobody is logged in"
        case "sender":
            return f"it is {facts.sender or '<>'}"
        case "recipient":
            return f"it is {facts.recipient}"
        case "tls":
            return "the session is encrypted" if facts.tls else "the session is plain"
        case _:
            found = {"tag": facts.tag, "helo": facts.helo, "rdns": facts.rdns}.get(key, "")
            return f"it is {found}" if found else "there is none"


def _delivery(delivery: Delivery) -> str:
    match delivery:
        case ToMailbox(mailbox_name=mailbox, recipient=recipient):
            return f"into {mailbox} of {recipient}"
        case ToRelay(route=route) if route.on_disk:
            return f"to the {route.kind.value} {route.host} as {route.auth.partition('=')[0]}{_tried(route)}"
        case ToRelay(recipient=recipient, route=route):
            to = str(recipient) if recipient.domain else recipient.local
            where = route.destination(recipient)
            by = f"the MX of {where}" if route.kind is RouteKind.MX else where
            rewritten = ", sender rewritten (SRS)" if route.srs else ""
            return f"to {by} for {to}, TLS {route.tls.value}{rewritten}{_tried(route)}"


def _because(delivery: Delivery, trace: Trace) -> str:
    """Say whether the sender decided by which server it goes."""
    if trace.smarthost is None or not isinstance(delivery, ToRelay) or delivery.route != trace.smarthost[1]:
        return ""
    return f", by policy.smarthosts {trace.smarthost[0]!r}"


def _tried(route: Route) -> str:
    return f", tried for {seconds_text(route.lifetime)}" if route.lifetime else ""


def _reply(refused: Refusal) -> str:
    return f"{int(refused.reply.code)} {refused.reply.enhanced} {refused.reply.text}"


def _as_json(trace: Trace, deliveries: tuple[Delivery, ...], refused: Refusal | None) -> Mapping[str, object]:
    return {
        "looks": [
            {"address": each.address, "rule": each.rule, "decides": each.matched, "why": each.why}
            for each in trace.looks
        ],
        "deliveries": [_delivery(each) + _because(each, trace) for each in deliveries],
        "refused": _reply(refused) if refused is not None else "",
        "detail": refused.detail if refused is not None else "",
    }
