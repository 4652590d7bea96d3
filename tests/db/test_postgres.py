"""PostgreSQL when things go wrong: a cut line, a crash, a lock held too long, a pooler that drops our options."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
import pytest

from gatepost.db import postgres as engine
from gatepost.db.postgres import PostgresDatabase, open_database
from gatepost.db.unit import Notice, Rows, Schema, Statement, Step, Unhealthy, Unit
from tests.db.world import IDS, SCHEMA, WRONG, add, adds
from tests.support.loop import run
from tests.support.postgres import fresh_dsn

pytestmark = pytest.mark.peer("postgresql")

SLOW: Final = Statement("t.slow", "SELECT pg_sleep(30)")
SETTING: Final = Statement("t.setting", "SELECT current_setting(:name)")
DEADLINE_S: Final = 10.0
LOCKED: Final = Schema("t", SCHEMA.migrations, (*SCHEMA.statements, SLOW, SETTING))


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[tuple[PostgresDatabase, "psycopg.AsyncConnection[Any]"]]:
    """A database, and a connection of somebody else to it; `options` are open_database's."""
    dsn = fresh_dsn()
    database = await open_database(dsn, (LOCKED,), **options)
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
            yield database, other
    finally:
        await database.close()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a fact about the server."""
    async with asyncio.timeout(DEADLINE_S):
        while not await holds():
            await asyncio.sleep(0.01)


async def cut_all(other: "psycopg.AsyncConnection[Any]") -> None:
    """End every other connection to this database, as a restart does."""
    theirs = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await other.execute(f"SELECT pg_terminate_backend(pid) {theirs}".encode())

    async def gone() -> bool:
        rows = await (
            await other.execute(f"SELECT COUNT(*) {theirs} AND query NOT LIKE 'LISTEN%'".encode())
        ).fetchone()
        return rows == (0,)

    await until(gone)


@pytest.mark.parametrize("durable", [True, False])
def test_durability_is_what_was_asked_for(durable: bool) -> None:
    async def scene() -> Rows:
        async with opened(durable=durable) as (database, _):
            return await database.read(SETTING, {"name": "synchronous_commit"})

    assert run(scene()) == [("on" if durable else "off",)]


def test_a_server_that_would_acknowledge_too_early_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = psycopg.AsyncConnection.connect

    async def pooled(*args: Any, options: str, **kwargs: Any) -> "psycopg.AsyncConnection[Any]":
        return await real(*args, **kwargs)

    async def scene() -> None:
        dsn = fresh_dsn()
        async with await real(dsn, autocommit=True) as other:
            await other.execute("ALTER ROLE gatepost SET synchronous_commit = off")
            try:
                monkeypatch.setattr(psycopg.AsyncConnection, "connect", pooled)
                with pytest.raises(Unhealthy, match="synchronous_commit"):
                    await open_database(dsn, (SCHEMA,))
            finally:
                await other.execute("ALTER ROLE gatepost RESET synchronous_commit")

    run(scene())


def test_a_cancelled_unit_leaves_neither_a_lock_nor_a_hole_in_the_pool() -> None:
    async def scene() -> Rows:
        async with opened() as (database, other):
            database._room = asyncio.Semaphore(1)
            for key in range(3):
                async with other.transaction():
                    await other.execute("LOCK TABLE thing")
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(database.commit(adds(key)), 0.05)
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(database.read(IDS, {}), 0.05)
            await asyncio.wait_for(database.commit(adds(7)), DEADLINE_S)
            return await database.read(IDS, {})

    assert run(scene()) == [(7,)]


def test_connections_that_the_server_cut_while_idle_are_not_used() -> None:
    async def scene() -> tuple[Rows, list[int]]:
        heard: list[int] = []
        async with opened() as (database, other):
            database.listen("thing", heard.append)
            await asyncio.gather(*(database.commit(adds(key)) for key in range(1, 9)))
            await cut_all(other)
            await asyncio.gather(*(database.commit(adds(key)) for key in range(11, 19)))

            async def told() -> bool:
                return bool(heard)

            await until(told)  # key 0: something may have been missed
            await database.commit(Unit((add(20),), (Notice("thing", 20),)))

            async def told_again() -> bool:
                return heard[-1] == 20

            await until(told_again)
            return await database.read(IDS, {}), heard

    rows, heard = run(scene())
    assert [row[0] for row in rows] == [*range(1, 9), *range(11, 19), 20]
    assert heard == [0, 20]


def test_after_a_crash_of_the_server_units_are_unhealthy_and_then_well() -> None:
    async def scene() -> tuple[set[type], Rows, list[int]]:
        kinds: set[type] = set()
        heard: list[int] = []
        async with opened() as (database, other):
            database.listen("thing", heard.append)
            await database.commit(adds(1))
            pid = (await (await other.execute("SELECT pg_backend_pid()")).fetchone() or (0,))[0]
            os.kill(pid, signal.SIGKILL)  # the postmaster ends all others and recovers
            key = 2
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    try:
                        await database.read(IDS, {})
                        await database.commit(adds(key))
                        if heard:
                            break
                    except Unhealthy as no:
                        kinds.add(type(no))
                    key += 1
                    await asyncio.sleep(0.02)
            return kinds, await database.read(IDS, {}), heard

    kinds, rows, heard = run(scene())
    assert kinds <= {Unhealthy}
    assert rows[0] == (1,)
    assert heard == [0]


def test_what_takes_too_long_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SETTINGS", {"statement_timeout": "200ms", "lock_timeout": "50ms"})

    async def scene() -> None:
        async with opened() as (database, other):
            with pytest.raises(Unhealthy, match="statement timeout"):
                await database.read_long(SLOW, {})
            async with other.transaction():
                await other.execute("LOCK TABLE thing")
                with pytest.raises(Unhealthy, match="lock timeout"):
                    await database.commit(adds(1))
                with pytest.raises(Unhealthy, match="lock timeout"):
                    await database.read(IDS, {})
            await database.commit(adds(1))

    run(scene())


def test_more_than_can_wait_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WAITING_MAX", 5)

    async def scene() -> list[object]:
        async with opened() as (database, other):
            async with other.transaction():
                await other.execute("LOCK TABLE thing")
                units = [asyncio.ensure_future(database.commit(adds(key))) for key in range(20)]

                async def refused() -> bool:
                    return sum(unit.done() for unit in units) >= 20 - 5 - engine.CONNECTIONS

                await until(refused)
            return await asyncio.gather(*units, return_exceptions=True)

    done = run(scene())
    assert [type(each) for each in done].count(Unhealthy) == 20 - 5 - engine.CONNECTIONS


def test_a_wrong_statement_commits_nothing_and_leaves_the_connection_whole() -> None:
    async def scene() -> Rows:
        async with opened() as (database, _):
            for key in range(12):
                with pytest.raises(Unhealthy, match="nowhere"):
                    await database.commit(Unit((add(key), Step(WRONG, {"id": 1}))))
            await database.commit(adds(1))
            return await database.read(IDS, {})

    assert run(scene()) == [(1,)]


def test_another_process_hears_each_notice_once_and_no_strangers_words() -> None:
    async def scene() -> tuple[list[int], list[int]]:
        dsn = fresh_dsn()
        one, two = await open_database(dsn, (SCHEMA,)), await open_database(dsn, (SCHEMA,))
        heard: tuple[list[int], list[int]] = ([], [])
        one.listen("thing", heard[0].append)
        two.listen("thing", heard[1].append)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
            for payload in ("", "thing", "thing x", "thing ²", "thing 1 2", "thing 1", "thing 1 \n"):
                await other.execute("SELECT pg_notify('gatepost', %s)", (payload,))
        await one.commit(Unit((add(1),), (Notice("thing", 5), Notice("other", 1))))
        assert heard[0] == [5], "who commits hears at once"
        await two.commit(Unit((add(2),), (Notice("thing", 6),)))

        async def told() -> bool:
            return len(heard[0]) == len(heard[1]) == 2

        await until(told)
        await one.commit(Unit((add(3),), (Notice("thing", 7),)))
        await one.close()  # sends what is unsent

        async def told_last() -> bool:
            return len(heard[1]) == 3

        await until(told_last)
        await two.close()
        return heard

    one, two = run(scene())
    assert one == [5, 6, 7]
    assert sorted(two) == [5, 6, 7]
