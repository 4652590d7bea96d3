"""Tables in databases: the same facts over SQLite and a real PostgreSQL."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import apsw
import psycopg
import pytest

from gatepost.base.address import Address
from gatepost.base.reply import Refusal
from gatepost.base.settings import BadSetting, fill
from gatepost.policy.action import Delivery, ToMailbox, ToRelay
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load
from gatepost.policy.settings import PolicySettings
from gatepost.policy.tables.kind import Kind
from gatepost.policy.tables.queried import KEPT_MAX, Row, SqlTable, percent_style
from tests.policy.world import STRANGER, People, address_of
from tests.support.loop import run
from tests.support.postgres import fresh_dsn

SCHEMA = """
CREATE TABLE aliases (address TEXT NOT NULL, target TEXT NOT NULL);
CREATE TABLE domains (name TEXT PRIMARY KEY);
CREATE TABLE blocked (address TEXT PRIMARY KEY);
CREATE TABLE relays (ip TEXT PRIMARY KEY);
CREATE TABLE homes (name TEXT PRIMARY KEY, uid BIGINT, gid BIGINT, home TEXT);
INSERT INTO aliases VALUES ('team@here.example', 'ann@here.example'), ('team@here.example', 'joe, x@far.example');
INSERT INTO aliases VALUES ('ann@here.example', 'ann'), ('joe@here.example', 'joe');
INSERT INTO aliases VALUES ('@sales.example', 'joe@here.example');
INSERT INTO aliases VALUES ('run@here.example', '|/bin/true'), ('old@here.example', 'error:550 5.1.6 moved');
INSERT INTO aliases VALUES ('odd@here.example', 'not an address');
INSERT INTO domains VALUES ('here.example'), ('sales.example');
INSERT INTO blocked VALUES ('joe@here.example'), ('@bad.example'), ('<>');
INSERT INTO relays VALUES ('198.51.100.7');
"""
Shape = dict[str, Any]  # settings as TOML gives them


class Stored:
    """A database with the tables above: its DSN, and a way to change it."""

    def __init__(self, dsn: str, execute: Callable[[str], object]) -> None:
        self.dsn = dsn
        self.execute = execute


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stored]:
    if request.param == "sqlite":
        path = tmp_path / "users.db"
        connection = apsw.Connection(str(path))
        connection.execute(SCHEMA)
        yield Stored(f"sqlite://{path}", connection.execute)
        connection.close()
    else:
        words = dict(word.split("=", 1) for word in fresh_dsn().split())
        with psycopg.connect(**words, autocommit=True) as session:  # type: ignore[arg-type]  # words of a DSN
            session.execute(SCHEMA.encode())
            yield Stored(f"postgresql:///?{urlencode(words)}", lambda text: session.execute(text.encode()))


def settings(dsn: str, **table: object) -> Shape:
    """Rules that ask the database for everything."""
    asked = {"sql": dsn, "cache": 0, **table}
    return {
        "tables": {
            "users": {**asked, "query": "SELECT target FROM aliases WHERE address = :key"},
            "domains": {**asked, "query": "SELECT 1 FROM domains WHERE name = :key"},
            "blocked": {**asked, "queries": {"mailaddr": "SELECT 1 FROM blocked WHERE address = :key"}},
            "relays": {**asked, "queries": {"netaddr": "SELECT ip FROM relays WHERE ip = :key"}},
        },
        "actions": {"virtual": {"do": "deliver", "virtual": "users"}},
        "rules": [
            {"match": {"from": "any", "for": "<domains>", "sender": "!<blocked>"}, "action": "virtual"},
            {"match": {"from": "<relays>", "for": "far.example"}, "action": "relay"},
            {"match": {"from": "local", "for": "any"}, "action": "relay"},
        ],
    }


class Asked:
    """A policy whose tables are in a database, on one loop for a whole test; `said` is what the operator read."""

    def __init__(self, shape: Shape) -> None:
        self.said: list[str] = []
        filled = fill(PolicySettings, shape, ("policy",))
        self.ruleset = load(filled, lambda event, **fields: self.said.append(f"{event} {fields}"))
        self.policy = Policy(filled, self.ruleset, own_names=["mx.here.example"])

    async def route(self, recipient: str, sender: str | None = "s@far.example") -> list[str]:
        origin = None if sender is None else address_of(sender)
        found = await self.policy.route(STRANGER, origin, address_of(recipient), directory=People())
        return [_text(each) for each in found]

    async def refusal(self, recipient: str, sender: str | None = "s@far.example") -> tuple[int, str]:
        try:
            return 250, " ".join(await self.route(recipient, sender))
        except Refusal as refused:
            return refused.reply.code, refused.reply.enhanced


def play(shape: Shape, scene: Callable[[Asked], Awaitable[None]]) -> None:
    async def played() -> None:
        asked = Asked(shape)
        try:
            await scene(asked)
        finally:
            asked.ruleset.close()

    run(played())


def _text(delivery: Delivery) -> str:
    match delivery:
        case ToMailbox(account=account):
            return f"box {People().accounts[account].partition('@')[0]}"
        case ToRelay(recipient=recipient):
            return f"relay {recipient}"


@pytest.mark.row("MT-30", "MT-31")
def test_users_domains_and_lists_are_in_the_database(stored: Stored) -> None:
    async def scene(asked: Asked) -> None:
        assert await asked.route("team@here.example") == ["box ann", "box joe", "relay x@far.example"]
        assert await asked.route("Ann+lists@HERE.example") == ["box ann"]
        assert await asked.route("anybody@sales.example") == ["box joe"]
        assert await asked.refusal("nobody@here.example") == (550, "5.1.1")
        assert await asked.refusal("old@here.example") == (550, "5.1.6")
        assert await asked.refusal("x@elsewhere.example") == (550, "5.7.1")
        assert await asked.route("x@far.example") == ["relay x@far.example"]
        for sender in ("joe@here.example", "any@bad.example", None):
            assert (await asked.refusal("ann@here.example", sender))[0] == 550
        assert asked.said == []

    play(settings(stored.dsn), scene)


def test_what_the_database_says_may_not_run_programs_nor_be_nonsense(stored: Stored) -> None:
    async def scene(asked: Asked) -> None:
        assert await asked.refusal("run@here.example") == (451, "4.3.5")
        assert await asked.refusal("odd@here.example") == (451, "4.3.5")

    play(settings(stored.dsn), scene)


def test_a_change_is_seen_when_the_answer_has_aged(stored: Stored) -> None:
    async def scene(asked: Asked) -> None:
        assert await asked.refusal("new@here.example") == (550, "5.1.1")
        stored.execute("INSERT INTO aliases VALUES ('new@here.example', 'ann')")
        assert await asked.route("new@here.example") == ["box ann"]

    async def remembered(asked: Asked) -> None:
        assert await asked.route("new@here.example") == ["box ann"]
        stored.execute("DELETE FROM aliases WHERE address = 'new@here.example'")
        assert await asked.route("new@here.example") == ["box ann"]
        stored.execute("INSERT INTO aliases VALUES ('new@here.example', 'joe')")

    play(settings(stored.dsn), scene)
    play(settings(stored.dsn, cache=60), remembered)


@pytest.mark.row("MT-30")
def test_a_database_that_fails_says_later_never_no(stored: Stored) -> None:
    async def scene(asked: Asked) -> None:
        assert await asked.route("ann@here.example") == ["box ann"]
        stored.execute("ALTER TABLE aliases RENAME TO away")
        assert await asked.refusal("ann@here.example") == (451, "4.3.0")
        stored.execute("ALTER TABLE away RENAME TO aliases")
        assert await asked.refusal("ann@here.example") == (451, "4.3.0")  # it rests for a second
        assert len(asked.said) == 1
        assert asked.said[0].startswith("table_failed {'table': 'users'")
        async with asyncio.timeout(10):
            while await asked.refusal("ann@here.example") == (451, "4.3.0"):
                await asyncio.sleep(0.02)
        assert await asked.route("ann@here.example") == ["box ann"]

    play(settings(stored.dsn), scene)


def test_a_query_that_takes_too_long_is_given_up_and_stopped(stored: Stored) -> None:
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    slow = f"{endless} SELECT x FROM n WHERE x < 0 AND :key <> ''"
    shape = settings(stored.dsn, timeout=0.3)
    shape["tables"]["domains"]["query"] = slow

    async def scene(asked: Asked) -> None:
        began = time.monotonic()
        assert await asked.refusal("ann@here.example") == (451, "4.3.0")
        assert time.monotonic() - began < 2

    play(shape, scene)


@pytest.mark.parametrize("stored", ["postgresql"], indirect=True)
@pytest.mark.peer("postgresql")
def test_a_connection_that_was_cut_meanwhile_is_made_again(stored: Stored) -> None:
    async def scene(asked: Asked) -> None:
        assert await asked.route("ann@here.example") == ["box ann"]
        stored.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
        assert await asked.route("ann@here.example") == ["box ann"]
        assert asked.said == []

    play(settings(stored.dsn), scene)


def test_nothing_can_be_changed_through_a_query(stored: Stored) -> None:
    shape = settings(stored.dsn)
    shape["tables"]["domains"]["query"] = "DELETE FROM domains WHERE name = :key RETURNING name"

    async def scene(asked: Asked) -> None:
        assert await asked.refusal("ann@here.example") == (451, "4.3.0")
        assert "read" in asked.said[0]

    play(shape, scene)


def test_many_ask_at_the_same_time(stored: Stored) -> None:
    async def scene(asked: Asked) -> None:
        found = await asyncio.gather(*(asked.route("team@here.example") for _ in range(60)))
        assert set(map(tuple, found)) == {("box ann", "box joe", "relay x@far.example")}

    play(settings(stored.dsn), scene)


@pytest.mark.parametrize(
    "evil", ["x' OR '1'='1", "x%' --", "x:key", "%(key)s", 'x"; DROP TABLE aliases; --', "\\", "a\0b", "a\nb"]
)
def test_a_recipient_is_a_value_and_never_a_part_of_the_query(stored: Stored, evil: str) -> None:
    async def scene(asked: Asked) -> None:
        found = await asked.policy.route(STRANGER, None, Address(evil, "sales.example"), directory=People())
        assert [_text(each) for each in found] == ["box joe"]  # by @sales.example
        assert asked.said == []

    shape = settings(stored.dsn)
    del shape["rules"][0]["match"]["sender"]
    play(shape, scene)


def test_homes_are_in_the_database(stored: Stored, tmp_path: Path) -> None:
    (tmp_path / ".forward").write_text("x@far.example\n")
    uid = tmp_path.stat().st_uid
    stored.execute(f"INSERT INTO homes VALUES ('joe', {uid}, {uid}, '{tmp_path}'), ('ann', NULL, NULL, NULL)")
    shape = settings(stored.dsn)
    query = "SELECT uid, gid, home FROM homes WHERE name = :local AND uid IS NOT NULL"
    shape["tables"]["homes"] = {"sql": stored.dsn, "queries": {"userinfo": query}}
    shape["actions"]["virtual"] |= {"forward_files": True, "userbase": "homes"}

    async def scene(asked: Asked) -> None:
        assert await asked.route("joe@here.example") == ["relay x@far.example"]
        assert await asked.route("ann@here.example") == ["box ann"]

    play(shape, scene)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"sql": "sqlite://users.db", "query": "SELECT :key"}, r"sqlite:///path"),
        ({"sql": "oracle://x", "query": "SELECT :key"}, r"sqlite:///path, postgresql://"),
        ({"sql": "sqlite:///x", "query": "SELECT 1"}, r"WHERE name = :key"),
        ({"sql": "sqlite:///x", "query": "SELECT ':key', \":key\", x::key"}, r"WHERE name = :key"),
        ({"sql": "sqlite:///x", "queries": {"alias": "SELECT :key"}}, r"queries.alias: .*aliases"),
        ({"sql": "sqlite:///x"}, r"needs a query"),
        ({"query": "SELECT :key"}, r"needs a query"),
        ({"sql": "sqlite:///x", "file": "/y", "query": "SELECT :key"}, r"one of"),
        ({"sql": "sqlite:///x", "queries": {"domain": "SELECT :key"}}, r"no query for mailaddr"),
    ],
)
def test_mistakes_in_the_settings_are_named(table: Mapping[str, object], says: str) -> None:
    rules = [{"match": {"from": "any", "recipient": "<t>", "for": "any"}, "action": "reject"}]
    with pytest.raises(BadSetting, match=says):
        Asked({"tables": {"t": table}, "rules": rules})


def test_a_file_that_is_not_there_is_a_failure_not_an_empty_table(tmp_path: Path) -> None:
    async def scene(asked: Asked) -> None:
        assert await asked.refusal("ann@here.example") == (451, "4.3.0")
        assert not (tmp_path / "nowhere.db").exists()

    play(settings(f"sqlite://{tmp_path}/nowhere.db"), scene)


def test_the_query_as_postgresql_takes_it() -> None:
    asked = "SELECT a FROM b WHERE c = :key AND d LIKE '%:key' AND e = :domain::text AND f = \":local\""
    assert percent_style(asked) == (
        "SELECT a FROM b WHERE c = %(key)s AND d LIKE '%%:key' AND e = %(domain)s::text AND f = \":local\""
    )


def test_no_more_answers_are_kept_than_there_is_room_for() -> None:
    class Echo:
        def rows(self, query: str, values: Mapping[str, str]) -> Sequence[Row]:
            return ((values["key"],),)

        def close(self) -> None: ...

    async def scene() -> int:
        table = SqlTable("t", {Kind.DOMAIN: "x"}, Echo, lambda *_, **__: None, keep=60, time_limit=5)
        table._kept = dict.fromkeys(((Kind.DOMAIN, str(n)) for n in range(KEPT_MAX)), (("x",), 9e9))
        assert await table.values(Kind.DOMAIN, ("new",)) == ("new",)
        table.close()
        return len(table._kept)

    assert run(scene()) == KEPT_MAX
