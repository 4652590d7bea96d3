"""Turn the settings into rules and tables, all checked before any of them serves."""

import os
import pwd
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from gatepost.base.address import fold
from gatepost.base.settings import BadSetting
from gatepost.policy.action import Action, Deliver, Reject, Relay, Route, RouteKind
from gatepost.policy.match import AllTables, Question, Rule, compile_tests
from gatepost.policy.settings import ActionSettings, Do, PolicySettings, RuleSettings
from gatepost.policy.smarthosts import NO_SMARTHOSTS, Smarthosts
from gatepost.policy.srs import Rewriter, load_rewriter
from gatepost.policy.table import Table, load_table
from gatepost.policy.tables.forward import Forwards, Homes, SystemHomes, TableHomes
from gatepost.policy.tables.kind import Kind
from gatepost.policy.tables.lookup import Aliases, KeptAliases, RunsAs, Warn
from gatepost.policy.tables.queried import SqlTable, open_table

# Our own domains are for everybody, the rest of the world is for those who belong here: never an open relay.
DEFAULT_RULES: Final = (
    RuleSettings({"from": "any", "for": ("own", "local")}, "deliver"),
    RuleSettings({"from": "local", "for": "any"}, "relay"),
    RuleSettings({"from": "any", "auth": True, "for": "any"}, "relay"),
)
_KINDS: Final = {
    "from": Kind.NETADDR,
    "for": Kind.DOMAIN,
    "sender": Kind.MAILADDR,
    "recipient": Kind.MAILADDR,
}
"""What a table is that a condition names."""
_PLAIN: Final[Mapping[str, Action]] = {"deliver": Deliver(), "relay": Relay(Route()), "reject": Reject()}


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All that was configured, ready to be asked.

    `aliases` are the tables that actions expand with; `forwards` know the users' .forward, by the action's name.
    """

    rules: tuple[Rule, ...]
    aliases: Mapping[str, Aliases]
    forwards: Mapping[str, Forwards]
    tables: AllTables
    smarthosts: Smarthosts = NO_SMARTHOSTS
    srs: Rewriter | None = None
    senders: Aliases | None = None

    async def answer(self, question: Question) -> bool:
        """Ask a table what a test needs to know; raises Refusal when that cannot be told now."""
        table = self.tables[question.table]
        assert not isinstance(table, Table)
        return await table.values(question.kind, question.keys) is not None

    def close(self) -> None:
        """Let go of the databases; a lookup that is under way may end."""
        for table in self.tables.values():
            if isinstance(table, SqlTable):
                table.close()


def load(settings: PolicySettings, warn: Warn | None = None) -> Ruleset:
    """Read the tables and compile the rules; raises BadSetting. It reads files: off the loop, please."""
    tables = load_tables(settings, warn)
    _warn_of_users(settings, warn or _quiet)
    actions = dict(_PLAIN)
    for name, action in settings.actions.items():
        if name in _PLAIN:
            raise BadSetting(("policy", "actions", name), "the name is taken", "call it something else")
        actions[name] = _action(name, action)
    rules = settings.rules or DEFAULT_RULES
    compiled = tuple(_rule(at, rule, actions, tables) for at, rule in enumerate(rules))
    aliases, forwards = _aliases(settings, tables), _forwards(settings, tables, warn or _quiet)
    rewriter = load_rewriter(settings.srs)
    senders = _senders(settings, tables)
    return Ruleset(compiled, aliases, forwards, tables, _smarthosts(settings, actions), rewriter, senders)


def _senders(settings: PolicySettings, tables: Mapping[str, Table | SqlTable]) -> Aliases | None:
    name = settings.senders
    if not name:
        return None
    match tables.get(name):
        case None:
            known = ", ".join(sorted(tables)) or "none"
            raise BadSetting(("policy", "senders"), f"there is no table {name!r}", f"tables: {known}")
        case Table() as table:
            return KeptAliases(table.mapping())
        case SqlTable() as asked if asked.answers(Kind.SENDERS):
            return asked.used_as(Kind.SENDERS)
        case _:
            raise BadSetting(
                ("policy", "senders"), f"table {name!r} has no query for senders", "write queries.senders"
            )


def _smarthosts(settings: PolicySettings, actions: Mapping[str, Action]) -> Smarthosts:
    try:
        return Smarthosts(settings.smarthosts, actions)
    except BadSetting as wrong:
        raise BadSetting(("policy", "smarthosts", *wrong.path), wrong.problem, wrong.remedy) from wrong


def load_tables(settings: PolicySettings, warn: Warn | None = None) -> Mapping[str, Table | SqlTable]:
    """Read all tables, or open what must be asked; raises BadSetting."""
    tables: dict[str, Table | SqlTable] = {}
    kinds = kinds_of(settings)
    for name, table in settings.tables.items():
        try:
            if table.sql:
                tables[name] = open_table(table, name, warn or _quiet)
            else:
                tables[name] = load_table(name, table, warn, kinds.get(name, ()))
        except BadSetting as wrong:
            raise BadSetting(("policy", "tables", *wrong.path), wrong.problem, wrong.remedy) from wrong
    return tables


def kinds_of(settings: PolicySettings) -> Mapping[str, Collection[Kind]]:
    """Return what each table is used as by the rules and actions."""
    found: dict[str, set[Kind]] = {}
    for action in settings.actions.values():
        for name in filter(None, (action.virtual, action.alias)):
            found.setdefault(name, set()).add(Kind.VIRTUAL)
        if action.userbase:
            found.setdefault(action.userbase, set()).add(Kind.USERINFO)
    if settings.senders:
        found.setdefault(settings.senders, set()).add(Kind.SENDERS)
    for rule in settings.rules:
        for condition, value in rule.match.items():
            if condition in _KINDS:
                for word in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
                    found.setdefault(word.removeprefix("!").strip().strip("<>"), set()).add(_KINDS[condition])
    return found


def _rule(at: int, rule: RuleSettings, actions: Mapping[str, Action], tables: AllTables) -> Rule:
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


def _action(name: str, settings: ActionSettings) -> Action:
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
                ",".join(settings.sources),
                xforward=settings.xforward,
                lifetime=round(settings.lifetime),
            )
        )
    end = _lmtp_route(settings.lmtp) if settings.lmtp else None
    if settings.program:
        end = RunsAs(settings.program_user, settings.program_shell).program(settings.program)
    if end is not None and settings.lifetime:
        end = replace(end, lifetime=round(settings.lifetime))
    forwards = name if settings.forward_files else ""
    return Deliver(settings.mailbox, settings.virtual, settings.alias, end, settings.rcpt_to, forwards)


def _lmtp_route(text: str) -> Route:
    if text.startswith("/"):
        return Route(RouteKind.HOST, text, lmtp=True)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65_536):
        raise BadSetting(("policy", "actions"), f"{text!r} is no LMTP server", "write /run/lmtp or 127.0.0.1:24")
    return Route(RouteKind.HOST, host.strip("[]"), int(port), lmtp=True)


def _aliases(settings: PolicySettings, tables: Mapping[str, Table | SqlTable]) -> Mapping[str, Aliases]:
    found: dict[str, Aliases] = {}
    for action, each in settings.actions.items():
        for name in filter(None, (each.virtual, each.alias)):
            match _known(action, name, tables, Kind.VIRTUAL):
                case SqlTable() as asked:
                    found[name] = asked
                case Table() as table if name not in found:
                    given = settings.tables[name]
                    runs_as = RunsAs(given.user, given.shell) if given.programs else None
                    found[name] = KeptAliases(table.mapping(), runs_as)
    return found


def _forwards(
    settings: PolicySettings, tables: Mapping[str, Table | SqlTable], warn: Warn
) -> Mapping[str, Forwards]:
    found: dict[str, Forwards] = {}
    for action, each in settings.actions.items():
        if each.forward_files:
            homes = _homes(_known(action, each.userbase, tables, Kind.USERINFO)) if each.userbase else SystemHomes()
            found[action] = Forwards(homes, warn, programs=each.forward_programs)
    return found


def _homes(table: Table | SqlTable) -> Homes:
    match table:
        case SqlTable():
            return TableHomes(partial(table.values, Kind.USERINFO))
        case Table():
            users = KeptAliases({fold(key): (value,) for key, value in table.plain().items()})
            return TableHomes(users.find)


def _warn_of_users(settings: PolicySettings, warn: Warn) -> None:
    """Tell of programs that would wait for ever, because this process cannot become their user."""
    users = {each.program_user for each in settings.actions.values() if each.program}
    users |= {each.user for each in settings.tables.values() if each.programs}
    for user in sorted(users):
        try:
            uid = pwd.getpwnam(user).pw_uid
        except KeyError:
            warn("program_user_unknown", user=user, text="Its mail waits until there is such a user.")
            continue
        if os.geteuid() not in (0, uid):
            text = "This server is not root and cannot become that user: its mail waits until another is named."
            warn("program_user_out_of_reach", user=user, text=text)


def _known(action: str, name: str, tables: Mapping[str, Table | SqlTable], kind: Kind) -> Table | SqlTable:
    path = ("policy", "actions", action)
    if name not in tables:
        raise BadSetting(path, f"there is no table {name!r}", f"tables: {', '.join(sorted(tables)) or 'none'}")
    table = tables[name]
    if isinstance(table, SqlTable) and not table.answers(kind):
        raise BadSetting(path, f"table {name!r} has no query for {kind.value}", f"write queries.{kind.value}")
    return table


def _quiet(event: str, **fields: object) -> None:
    """Warn nobody."""
