"""Which rule decides: pure, the first whose conditions all hold (smtpd.conf(5)).

A rule without `tag` matches tagged mail too; a rule without `from` matches local sources only. An address that came
out of an expansion is looked at as local mail, whoever sent the mail that was expanded.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from gatepost.base.address import Address, ReversePath, fold, fold_domain
from gatepost.base.envelope import Client
from gatepost.base.settings import BadSetting
from gatepost.policy.action import Action
from gatepost.policy.table import AddressList, DomainList, Networks, Table

Conditions = Mapping[str, str | bool | tuple[str, ...]]
Test = Callable[["Facts"], bool]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one recipient of one mail. `local`: the source counts as local; `own`: so is the domain."""

    ip: str
    local: bool
    sender: ReversePath
    recipient: Address
    own: bool
    local_name: bool
    """The domain is a name of this machine: localhost or the server's own."""
    tag: str = ""
    user: str = ""
    helo: str = ""
    rdns: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Tests that must all hold, and the action then. `text` shows it to people."""

    tests: tuple[Test, ...]
    action: Action
    text: str = ""

    def matches(self, facts: Facts) -> bool:
        """Tell whether all tests hold."""
        return all(test(facts) for test in self.tests)


def first_match(rules: Iterable[Rule], facts: Facts) -> Rule | None:
    """Return the rule that decides, None when none does."""
    return next((rule for rule in rules if rule.matches(facts)), None)


def is_local(client: Client, own_addresses: Container[str], *, authenticated_is_local: bool) -> bool:
    """Tell whether a client counts as local: over loopback, from one of our own addresses, or logged in."""
    if client.user and authenticated_is_local:
        return True
    return client.loopback or client.ip == client.local_ip or client.ip in own_addresses


def compile_tests(conditions: Conditions, tables: Mapping[str, Table]) -> tuple[Test, ...]:
    """Turn `match = {...}` into tests, cheap ones first; raises BadSetting with the condition's name."""
    for key in conditions:
        if key not in _COMPILE:
            raise BadSetting((key,), "there is no such condition", "known here: " + ", ".join(_COMPILE))
    given = dict(_DEFAULTS) | dict(conditions)
    return tuple(
        _compile_one(compile_, key, given[key], tables) for key, compile_ in _COMPILE.items() if key in given
    )


def _compile_one(compile_: "_Compile", key: str, value: object, tables: Mapping[str, Table]) -> Test:
    if isinstance(value, bool):
        if key not in ("auth", "tls"):
            raise BadSetting((key,), f"{value!r} makes no sense here", "write a string")
        wanted: bool = value
        return (lambda facts: bool(facts.user) is wanted) if key == "auth" else (lambda facts: facts.tls is wanted)
    words = (value,) if isinstance(value, str) else value
    if not isinstance(words, tuple) or not words or not all(isinstance(word, str) and word for word in words):
        raise BadSetting((key,), f"{value!r} is neither a string nor a list of strings")
    negated = {word.startswith("!") for word in words}
    if len(negated) > 1:
        raise BadSetting((key,), "negated and plain entries are mixed", "negate all of them or none")
    try:
        test = compile_(tuple(word.removeprefix("!").strip() for word in words), _Tables(tables))
    except BadSetting as wrong:
        raise BadSetting((key, *wrong.path), wrong.problem, wrong.remedy) from wrong
    except ValueError as wrong:
        raise BadSetting((key,), str(wrong)) from wrong
    return (lambda facts: not test(facts)) if negated.pop() else test


class _Tables:
    """Find the tables that conditions name as `<name>`."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables

    def named(self, word: str) -> Table | None:
        """Return the table of `<name>`; None when the word is no table's name."""
        if not (word.startswith("<") and word.endswith(">") and len(word) > 2):
            return None
        name = word[1:-1]
        if name not in self._tables:
            known = ", ".join(sorted(self._tables)) or "none"
            raise BadSetting((), f"there is no table {name!r}", f"tables: {known}")
        return self._tables[name]

    def keys(self, words: Iterable[str]) -> tuple[str, ...]:
        """Return the words, those that name tables replaced by the tables' entries."""
        found: list[str] = []
        for word in words:
            table = self.named(word)
            found += (word,) if table is None else table.keys
        return tuple(found)


_Compile = Callable[[tuple[str, ...], _Tables], Test]


def _tag(words: tuple[str, ...], _: _Tables) -> Test:
    wanted = frozenset(words)
    return lambda facts: facts.tag in wanted


def _from(words: tuple[str, ...], tables: _Tables) -> Test:
    if "any" in words:
        return lambda facts: True
    local = "local" in words
    networks = Networks(tables.keys(word for word in words if word != "local"))
    return lambda facts: (local and facts.local) or facts.ip in networks


def _for(words: tuple[str, ...], tables: _Tables) -> Test:
    if "any" in words:
        return lambda facts: True
    own, local = "own" in words, "local" in words
    domains = DomainList(tables.keys(word for word in words if word not in ("own", "local")))
    return lambda facts: (
        (own and facts.own) or (local and facts.local_name) or fold_domain(facts.recipient.domain) in domains
    )


def _auth(words: tuple[str, ...], tables: _Tables) -> Test:
    users = frozenset(fold(word) for word in tables.keys(words))
    return lambda facts: fold(facts.user) in users


def _sender(words: tuple[str, ...], tables: _Tables) -> Test:
    wanted = AddressList(tables.keys(words))
    return lambda facts: facts.sender in wanted


def _recipient(words: tuple[str, ...], tables: _Tables) -> Test:
    wanted = AddressList(tables.keys(words))
    return lambda facts: facts.recipient in wanted


def _helo(words: tuple[str, ...], tables: _Tables) -> Test:
    wanted = DomainList(tables.keys(words))
    return lambda facts: bool(facts.helo) and facts.helo in wanted


def _rdns(words: tuple[str, ...], tables: _Tables) -> Test:
    wanted = DomainList(tables.keys(words))
    return lambda facts: bool(facts.rdns) and facts.rdns in wanted


def _tls(words: tuple[str, ...], _: _Tables) -> Test:
    raise ValueError(f"{words[0]!r} is not true or false")


_COMPILE: Final[Mapping[str, _Compile]] = {
    "tag": _tag,
    "from": _from,
    "auth": _auth,
    "tls": _tls,
    "for": _for,
    "sender": _sender,
    "recipient": _recipient,
    "helo": _helo,
    "rdns": _rdns,
}
_DEFAULTS: Final = {"from": "local", "for": "local"}
