"""Which rule decides: pure, the first whose conditions all hold (smtpd.conf(5)).

A rule without `tag` matches tagged mail too; a rule without `from` matches local sources only. An address that came
out of an expansion is looked at as local mail, whoever sent the mail that was expanded.

Matching never waits. A table that must be asked (SQL) is asked between two tries: a test whose question has no
answer in the facts raises Unanswered, and whoever asks for the rule gets the answer and tries again. Rules that
name no such table pay nothing for it.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gatepost.base.address import Address, ReversePath, fold, fold_domain
from gatepost.base.envelope import Client
from gatepost.base.settings import BadSetting
from gatepost.policy.action import Action
from gatepost.policy.table import NULL_SENDER, AddressList, DomainList, Networks, Table
from gatepost.policy.tables.kind import Kind

AllTables = Mapping[str, "Table | AskedTable"]
Conditions = Mapping[str, str | bool | tuple[str, ...]]
Test = Callable[["Facts"], bool]


class AskedTable(Protocol):
    """A table that is not in memory."""

    def answers(self, kind: Kind) -> bool:
        """Tell whether it can be asked for such a thing."""
        ...

    async def values(self, kind: Kind, keys: Sequence[str]) -> tuple[str, ...] | None:
        """Return the values of the first key that is known; raises Refusal when that cannot be told now."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a table knows one of these keys."""

    table: str
    kind: Kind
    keys: tuple[str, ...]


class Unanswered(Exception):
    """A test needs an answer that the facts do not have."""

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        self.question = question


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
    answers: Mapping[Question, bool] = field(default_factory=dict)
    """What tables that must be asked have said."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Tests that must all hold, and the action then. `text` shows it to people."""

    tests: tuple[Test, ...]
    action: Action
    text: str = ""

    def matches(self, facts: Facts) -> bool:
        """Tell whether all tests hold; raises Unanswered."""
        return all(test(facts) for test in self.tests)


def first_match(rules: Iterable[Rule], facts: Facts) -> Rule | None:
    """Return the rule that decides, None when none does; raises Unanswered."""
    return next((rule for rule in rules if rule.matches(facts)), None)


def is_local(client: Client, own_addresses: Container[str], *, authenticated_is_local: bool) -> bool:
    """Tell whether a client counts as local: over loopback, from one of our own addresses, or logged in."""
    if client.user and authenticated_is_local:
        return True
    return client.loopback or client.ip == client.local_ip or client.ip in own_addresses


def compile_tests(conditions: Conditions, tables: AllTables) -> tuple[Test, ...]:
    """Turn `match = {...}` into tests, cheap ones first; raises BadSetting with the condition's name."""
    for key in conditions:
        if key not in _COMPILE:
            raise BadSetting((key,), "there is no such condition", "known here: " + ", ".join(_COMPILE))
    given = dict(_DEFAULTS) | dict(conditions)
    return tuple(
        _compile_one(compile_, key, given[key], tables) for key, compile_ in _COMPILE.items() if key in given
    )


def _compile_one(compile_: "_Compile", key: str, value: object, tables: AllTables) -> Test:
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

    def __init__(self, tables: AllTables) -> None:
        self._tables = tables

    def parted(self, words: Iterable[str], kind: Kind) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the entries that are known now, and the names of the tables that must be asked."""
        known: list[str] = []
        asked: list[str] = []
        for word in words:
            match self._named(word):
                case None:
                    known.append(word)
                case Table() as table:
                    known += table.keys
                case other if other.answers(kind):
                    asked.append(word[1:-1])
                case _:
                    raise BadSetting((), f"{word} has no query for {kind.value}", f"write queries.{kind.value}")
        return tuple(known), tuple(asked)

    def _named(self, word: str) -> Table | AskedTable | None:
        """Return the table of `<name>`; None when the word is no table's name."""
        if not (word.startswith("<") and word.endswith(">") and len(word) > 2):
            return None
        name = word[1:-1]
        if name not in self._tables:
            known = ", ".join(sorted(self._tables)) or "none"
            raise BadSetting((), f"there is no table {name!r}", f"tables: {known}")
        return self._tables[name]


_Compile = Callable[[tuple[str, ...], _Tables], Test]
_Keys = Callable[[Facts], tuple[str, ...]]


def _or_asked(test: Test, names: tuple[str, ...], kind: Kind, keys: _Keys) -> Test:
    """Return a test that asks tables too, where there are any."""
    if not names:
        return test
    return lambda facts: test(facts) or any(_answer(facts, Question(name, kind, keys(facts))) for name in names)


def _answer(facts: Facts, question: Question) -> bool:
    if not question.keys:
        return False
    known = facts.answers.get(question)
    if known is None:
        raise Unanswered(question)
    return known


def _tag(words: tuple[str, ...], _: _Tables) -> Test:
    wanted = frozenset(words)
    return lambda facts: facts.tag in wanted


def _from(words: tuple[str, ...], tables: _Tables) -> Test:
    if "any" in words:
        return lambda facts: True
    local = "local" in words
    known, asked = tables.parted((word for word in words if word != "local"), Kind.NETADDR)
    networks = Networks(known)
    return _or_asked(
        lambda facts: (local and facts.local) or facts.ip in networks,
        asked,
        Kind.NETADDR,
        lambda facts: (facts.ip,),
    )


def _for(words: tuple[str, ...], tables: _Tables) -> Test:
    if "any" in words:
        return lambda facts: True
    own, local = "own" in words, "local" in words
    known, asked = tables.parted((word for word in words if word not in ("own", "local")), Kind.DOMAIN)
    domains = DomainList(known)
    return _or_asked(
        lambda facts: (
            (own and facts.own) or (local and facts.local_name) or fold_domain(facts.recipient.domain) in domains
        ),
        asked,
        Kind.DOMAIN,
        lambda facts: _if_any(fold_domain(facts.recipient.domain)),
    )


def _auth(words: tuple[str, ...], tables: _Tables) -> Test:
    known, asked = tables.parted(words, Kind.CREDENTIALS)
    users = frozenset(fold(word) for word in known)
    return _or_asked(
        lambda facts: fold(facts.user) in users, asked, Kind.CREDENTIALS, lambda facts: _if_any(fold(facts.user))
    )


def _sender(words: tuple[str, ...], tables: _Tables) -> Test:
    known, asked = tables.parted(words, Kind.MAILADDR)
    wanted = AddressList(known)
    return _or_asked(
        lambda facts: facts.sender in wanted, asked, Kind.MAILADDR, lambda facts: _address_keys(facts.sender)
    )


def _recipient(words: tuple[str, ...], tables: _Tables) -> Test:
    known, asked = tables.parted(words, Kind.MAILADDR)
    wanted = AddressList(known)
    return _or_asked(
        lambda facts: facts.recipient in wanted, asked, Kind.MAILADDR, lambda facts: _address_keys(facts.recipient)
    )


def _helo(words: tuple[str, ...], tables: _Tables) -> Test:
    known, asked = tables.parted(words, Kind.DOMAIN)
    wanted = DomainList(known)
    return _or_asked(
        lambda facts: bool(facts.helo) and facts.helo in wanted,
        asked,
        Kind.DOMAIN,
        lambda facts: _if_any(fold_domain(facts.helo)),
    )


def _rdns(words: tuple[str, ...], tables: _Tables) -> Test:
    known, asked = tables.parted(words, Kind.DOMAIN)
    wanted = DomainList(known)
    return _or_asked(
        lambda facts: bool(facts.rdns) and facts.rdns in wanted,
        asked,
        Kind.DOMAIN,
        lambda facts: _if_any(fold_domain(facts.rdns)),
    )


def _if_any(key: str) -> tuple[str, ...]:
    return (key,) if key else ()


def _address_keys(address: ReversePath) -> tuple[str, ...]:
    """Return user@domain, @domain, user: the order of table(5)."""
    if address is None:
        return (NULL_SENDER,)
    local, domain = fold(address.local), fold_domain(address.domain)
    return f"{local}@{domain}", f"@{domain}", local


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
