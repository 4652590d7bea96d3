"""Turn the settings into rules and tables, all checked before any of them serves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gatepost.base.address import Address
from gatepost.base.settings import BadSetting
from gatepost.codec.smtp.grammar import BadAddress, parse_mailbox
from gatepost.policy.action import Action, Deliver, Reject, Relay, Route, RouteKind
from gatepost.policy.match import Rule, compile_tests
from gatepost.policy.settings import ActionSettings, Do, PolicySettings, RuleSettings
from gatepost.policy.table import Table, Warn, load_table

# Our own domains are for everybody, the rest of the world is for those who belong here: never an open relay.
DEFAULT_RULES: Final = (
    RuleSettings({"from": "any", "for": ("own", "local")}, "deliver"),
    RuleSettings({"from": "local", "for": "any"}, "relay"),
    RuleSettings({"from": "any", "auth": True, "for": "any"}, "relay"),
)
_PLAIN: Final[Mapping[str, Action]] = {"deliver": Deliver(), "relay": Relay(Route()), "reject": Reject()}


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that was configured, ready to be asked. `mappings` are the tables that actions expand with."""

    rules: tuple[Rule, ...]
    mappings: Mapping[str, Mapping[str, tuple[str, ...]]]


def load(settings: PolicySettings, warn: Warn | None = None) -> Ruleset:
    """Read the tables and compile the rules; raises BadSetting. It reads files: off the loop, please."""
    tables: dict[str, Table] = {}
    for name, table in settings.tables.items():
        try:
            tables[name] = load_table(name, table, warn)
        except BadSetting as wrong:
            raise BadSetting(("policy", "tables", *wrong.path), wrong.problem, wrong.remedy) from wrong
    actions = dict(_PLAIN)
    for name, action in settings.actions.items():
        if name in _PLAIN:
            raise BadSetting(("policy", "actions", name), "the name is taken", "call it something else")
        actions[name] = _action(action)
    rules = settings.rules or DEFAULT_RULES
    compiled = tuple(_rule(at, rule, actions, tables) for at, rule in enumerate(rules))
    return Ruleset(compiled, _mappings(settings, tables))


def _rule(at: int, rule: RuleSettings, actions: Mapping[str, Action], tables: Mapping[str, Table]) -> Rule:
    if rule.action not in actions:
        known = ", ".join(sorted(actions))
        raise BadSetting(
            ("policy", "rules", at, "action"), f"there is no action {rule.action!r}", f"known: {known}"
        )
    try:
        tests = compile_tests(rule.match, tables)
    except BadSetting as wrong:
        raise BadSetting(("policy", "rules", at, "match", *wrong.path), wrong.problem, wrong.remedy) from wrong
    words = " ".join(f"{key} {value}" for key, value in rule.match.items())
    return Rule(tests, actions[rule.action], f"rule {at + 1}: match {words} action {rule.action}")


def _action(settings: ActionSettings) -> Action:
    if settings.do is Do.REJECT:
        return Reject()
    if settings.do is Do.RELAY:
        return Relay(
            Route(
                RouteKind.HOST if settings.host else RouteKind.MX,
                settings.host,
                settings.port,
                settings.tls,
                settings.implicit_tls,
                settings.auth,
                settings.helo,
                settings.source,
            )
        )
    lmtp = _lmtp_route(settings.lmtp) if settings.lmtp else None
    return Deliver(settings.mailbox, settings.virtual, settings.alias, lmtp, settings.rcpt_to)


def _lmtp_route(text: str) -> Route:
    if text.startswith("/"):
        return Route(RouteKind.HOST, text, lmtp=True)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise BadSetting(("policy", "actions"), f"{text!r} is no LMTP server", "write /run/lmtp or 127.0.0.1:24")
    return Route(RouteKind.HOST, host.strip("[]"), int(port), lmtp=True)


def _mappings(settings: PolicySettings, tables: Mapping[str, Table]) -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    found: dict[str, Mapping[str, tuple[str, ...]]] = {}
    for action, each in settings.actions.items():
        for name in filter(None, (each.virtual, each.alias)):
            if name not in tables:
                raise BadSetting(("policy", "actions", action), f"there is no table {name!r}")
            try:
                found[name] = tables[name].mapping()
            except BadSetting as wrong:
                raise BadSetting(("policy", "tables", *wrong.path), wrong.problem, wrong.remedy) from wrong
            _check_targets(name, found[name])
    return found


def _check_targets(name: str, mapping: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse what gatepost never does on behalf of a table: run a program, write a file, say what is no address."""
    for key, values in mapping.items():
        for value in values:
            if value.startswith("error:"):
                continue
            if value.startswith(("|", "/", '"|', "maildir:")):
                raise BadSetting(
                    ("policy", "tables", name),
                    f"{key!r} leads to {value!r}: programs and files are no targets here",
                    "deliver to a mailbox, or hand the mail to an LMTP server",
                )
            try:
                read_target(value)
            except BadAddress as wrong:
                problem = f"{key!r} leads to {value!r}: {wrong}"
                raise BadSetting(("policy", "tables", name), problem, "write user or user@domain") from wrong


def read_target(value: str) -> Address:
    """Read what a table leads to, with an empty domain for a bare user; raises BadAddress (OUT-12)."""
    value = value.removeprefix("\\")
    if "@" in value:
        return parse_mailbox(value.encode())
    return replace(parse_mailbox(f"{value}@localhost".encode()), domain="")
