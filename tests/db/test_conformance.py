"""What any Database promises, on both engines: units whole or not at all, answers, notices, errors."""

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

from gatepost.db.unit import Clash, Notice, Rows, Schema, Statement, Step, Unit, Unmet
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

ADD: Final = Statement(
    "t.add", "INSERT INTO thing (id, name, content) VALUES (:id, :name, CAST(:content AS {OCTETS}))"
)
RENAME: Final = Statement("t.rename", "UPDATE thing SET name = :name WHERE id = :id", needs_row=True)
TAKE: Final = Statement("t.take", "DELETE FROM thing WHERE id = :id RETURNING name", returns=True)
ALL: Final = Statement("t.all", "SELECT id, name, content FROM thing ORDER BY name, id")
COUNT: Final = Statement("t.count", "SELECT COUNT(*) FROM thing WHERE name <> 'a:b%' AND id > :id")
SCHEMA: Final = Schema(
    "t",
    (
        ("0001_thing", "CREATE TABLE thing (\n  id {ID},\n  name TEXT NOT NULL,\n  content {OCTETS}\n);\n"),
        ("0002_narrow", "CREATE TABLE narrow (a BIGINT, b BIGINT, PRIMARY KEY (a, b)){CLUSTERED};\n"),
    ),
    (ADD, RENAME, TAKE, ALL, COUNT),
)


def add(key: int, name: str = "x", content: bytes | None = None) -> Step:
    return Step(ADD, {"id": key, "name": name, "content": content})


@each_engine
def test_a_unit_is_there_when_commit_returns(open_db: OpenDatabase) -> None:
    async def scene() -> Rows:
        async with open_db((SCHEMA,)) as database:
            await database.commit(Unit((add(1, "b", b"\0\xff"), add(2**62, "a"))))
            return await database.read(ALL, {})

    assert run(scene()) == [(2**62, "a", None), (1, "b", b"\0\xff")]


@each_engine
def test_a_clash_undoes_its_unit_and_no_other(open_db: OpenDatabase) -> None:
    async def scene() -> tuple[list[object], Rows]:
        async with open_db((SCHEMA,)) as database:
            units = [Unit((add(at), add(at + 100 if at != 5 else 104))) for at in range(4, 8)]
            done = await asyncio.gather(*(database.commit(unit) for unit in units), return_exceptions=True)
            return [type(each) for each in done], await database.read(COUNT, {"id": 0})

    kinds, rows = run(scene())
    assert kinds.count(Clash) == 1
    assert rows == [(6,)]


@each_engine
def test_an_unmet_precondition_undoes_its_unit_and_is_named(open_db: OpenDatabase) -> None:
    async def scene() -> tuple[str, Rows]:
        async with open_db((SCHEMA,)) as database:
            with pytest.raises(Unmet) as caught:
                await database.commit(Unit((add(1), Step(RENAME, {"id": 9, "name": "y"}))))
            return caught.value.statement, await database.read(ALL, {})

    assert run(scene()) == ("t.rename", [])


@each_engine
def test_rows_of_each_returning_step_come_back_in_order(open_db: OpenDatabase) -> None:
    async def scene() -> tuple[Rows, ...]:
        async with open_db((SCHEMA,)) as database:
            await database.commit(Unit((add(1, "one"), add(2, "two"))))
            steps = (Step(TAKE, {"id": 2}), add(3), Step(TAKE, {"id": 9}), Step(TAKE, {"id": 1}))
            return await database.commit(Unit(steps))

    assert run(scene()) == ([("two",)], [], [("one",)])


@each_engine
def test_notices_are_heard_after_the_commit_and_never_without_it(open_db: OpenDatabase) -> None:
    async def scene() -> list[int]:
        heard: list[int] = []
        async with open_db((SCHEMA,)) as database:
            done = asyncio.Event()

            def hear(key: int) -> None:
                heard.append(key)
                if key == 3:
                    done.set()

            stop = database.listen("thing", hear)
            await database.commit(Unit((add(1),), (Notice("thing", 1), Notice("other", 2))))
            with pytest.raises(Clash):
                await database.commit(Unit((add(1),), (Notice("thing", 2),)))
            await database.commit(Unit((add(2),), (Notice("thing", 3),)))
            await asyncio.wait_for(done.wait(), 5)
            stop()
        return heard

    assert run(scene()) == [1, 3]


@each_engine
def test_many_writers_at_once_all_get_through(open_db: OpenDatabase) -> None:
    async def scene() -> Rows:
        async with open_db((SCHEMA,)) as database:
            await asyncio.gather(*(database.commit(Unit((add(at),))) for at in range(1, 301)))
            return await database.read_long(COUNT, {"id": 100})

    assert run(scene()) == [(200,)]


def test_sql_of_every_stage_keeps_to_the_common_subset() -> None:
    folder = Path(__file__).parents[2] / "src" / "gatepost"
    refused = re.compile(
        r"\b(LIKE|GLOB|IFNULL|AUTOINCREMENT|ROWID|REPLACE INTO|ARRAY)\b|\bMAX\([^()]*,|\bMIN\([^()]*,"
    )
    for path in [*folder.glob("*/sql.py"), *folder.glob("*/schema/*.sql")]:
        found = refused.search(path.read_text())
        assert found is None, f"{path}: {found and found[0]} is not in both engines"
