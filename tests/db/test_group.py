"""Many units at once, on both engines: what they share, and what they do not."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from gatepost.db.migrate import SchemaTooNew
from gatepost.db.postgres import open_database as open_postgres
from gatepost.db.sqlite import SqliteDatabase
from gatepost.db.unit import Clash, Rows, Schema, Step, Unit, Unmet
from gatepost.db.writer import Outcome
from gatepost.db.writer import Step as NamedStep
from tests.db.world import IDS, RENAME, SCHEMA, add, adds, open_writer
from tests.support import postgres
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


def test_units_that_wait_together_share_one_transaction(tmp_path: Path) -> None:
    async def scene() -> tuple[list[int], Rows]:
        writer = open_writer(tmp_path)
        sizes, real, gate = [], writer.commit_batch, threading.Event()

        def counted(units: Sequence[tuple[NamedStep, ...]]) -> list[Outcome]:
            gate.wait(5)
            sizes.append(len(units))
            return real(units)

        writer.commit_batch = counted  # type: ignore[method-assign]  # a slow disk
        database = SqliteDatabase(tmp_path / "mail.db", writer)
        waiting = [asyncio.ensure_future(database.commit(adds(key))) for key in range(1, 101)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*waiting)
        found = await database.read(IDS, {})
        await database.close()
        return sizes, found

    sizes, found = run(scene())
    assert sum(sizes) == 100
    assert len(sizes) <= 2
    assert found == [(key,) for key in range(1, 101)]


@each_engine
def test_bad_units_among_many_spoil_none_of_them(open_db: OpenDatabase) -> None:
    unmet = Step(RENAME, {"id": 10_000, "name": "y"})

    async def scene() -> tuple[list[object], Rows]:
        async with open_db((SCHEMA,)) as database:
            await database.commit(adds(0))
            units = [
                Unit((add(key), add(0)) if key % 10 == 3 else (add(key), unmet) if key % 10 == 7 else (add(key),))
                for key in range(1, 101)
            ]
            done = await asyncio.gather(*map(database.commit, units), return_exceptions=True)
            return [type(each) for each in done], await database.read(IDS, {})

    kinds, rows = run(scene())
    assert [kinds.count(kind) for kind in (Clash, Unmet, tuple)] == [10, 10, 80]
    assert rows == [(key,) for key in range(101) if key % 10 not in (3, 7)]


@each_engine
def test_a_unit_fails_by_its_first_bad_step(open_db: OpenDatabase) -> None:
    unmet = Step(RENAME, {"id": 9, "name": "y"})

    async def scene() -> Rows:
        async with open_db((SCHEMA,)) as database:
            await database.commit(adds(1))
            with pytest.raises(Unmet, match=r"t\.rename"):
                await database.commit(Unit((add(2), unmet, add(1))))
            with pytest.raises(Clash):
                await database.commit(Unit((add(2), add(1), unmet)))
            return await database.read(IDS, {})

    assert run(scene()) == [(1,)]


@each_engine
def test_a_commit_that_nobody_waits_for_harms_no_other(open_db: OpenDatabase) -> None:
    async def scene() -> Rows:
        async with open_db((SCHEMA,)) as database:
            left = [asyncio.ensure_future(database.commit(adds(key))) for key in range(1, 40)]
            await asyncio.sleep(0)
            for task in left[::2]:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await asyncio.gather(*(database.commit(adds(key)) for key in range(100, 140)))
            return await database.read(IDS, {})

    found = [row[0] for row in run(scene())]
    assert set(range(2, 40, 2)) | set(range(100, 140)) <= set(found)


@pytest.mark.peer("postgresql")
@pytest.mark.row("REL-17")
def test_postgresql_refuses_a_newer_schema_too() -> None:
    newer = Schema("t", (*SCHEMA.migrations, ("0002_more", "CREATE TABLE more (\n id {ID}\n);\n")), ())

    async def scene() -> None:
        dsn = postgres.fresh_dsn()
        await (await open_postgres(dsn, (newer,))).close()
        with pytest.raises(SchemaTooNew, match="version 2, this gatepost knows 1"):
            await open_postgres(dsn, (SCHEMA,))
        await (await open_postgres(dsn, (newer,))).close()

    run(scene())
