"""Migrations: in order, whole or not at all, never backwards; the same on both engines."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import apsw
import pytest

from gatepost.db.migrate import SQLITE_TOKENS, SchemaTooNew, by_name, spelled
from gatepost.db.unit import Rows, Schema, Statement
from tests.db.world import SCHEMA, adds, named, open_writer
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

LATER: Final = (
    "0002_more",
    """CREATE TABLE more (
    id {ID},
    n BIGINT NOT NULL
);
-- every thing gets one;
INSERT INTO more (id, n) SELECT id, 7 FROM thing;
CREATE INDEX more_n ON more (n);
""",
)
MORE: Final = Statement("t.more", "SELECT id, n FROM more ORDER BY id")
NEXT: Final = Schema("t", (*SCHEMA.migrations, LATER), (*SCHEMA.statements, MORE))
OTHER: Final = Schema("other", (("0001_o", "CREATE TABLE other (\n id {ID}\n);\n"),), ())


@pytest.mark.row("REL-17")
@each_engine
def test_tables_and_rows_of_the_version_before_are_carried_over(open_db: OpenDatabase, tmp_path: Path) -> None:
    async def scene() -> Rows:
        async with open_db((NEXT,)) as database:
            await database.commit(adds(1))
            return await database.read(MORE, {})

    assert run(scene()) == []


@pytest.mark.row("REL-17")
def test_rows_written_under_the_old_schema_are_there_under_the_new(tmp_path: Path) -> None:
    old = open_writer(tmp_path)
    assert old.commit_batch([named(*adds(5).steps)]) == [()]
    old.close()
    open_writer(tmp_path, NEXT).close()
    connection = apsw.Connection(str(tmp_path / "mail.db"))
    assert connection.execute("SELECT id, n FROM more").fetchall() == [(5, 7)]
    connection.close()


@pytest.mark.row("REL-17")
def test_a_newer_schema_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    open_writer(tmp_path, NEXT).close()
    with pytest.raises(SchemaTooNew, match="version 2, this gatepost knows 1"):
        open_writer(tmp_path)
    connection = apsw.Connection(str(tmp_path / "mail.db"))
    assert connection.execute("SELECT version FROM schema_version").fetchall() == [(2,)]
    connection.close()
    open_writer(tmp_path, NEXT).close()


def test_one_stage_too_new_keeps_every_other_stage_from_moving(tmp_path: Path) -> None:
    open_writer(tmp_path, NEXT).close()
    from gatepost.db.writer import migrate

    connection = apsw.Connection(str(tmp_path / "mail.db"))
    with pytest.raises(SchemaTooNew):
        migrate(connection, (OTHER, SCHEMA))
    assert connection.execute("SELECT stage FROM schema_version").fetchall() == [("t",)]
    connection.close()


def test_a_failing_statement_undoes_its_whole_migration(tmp_path: Path) -> None:
    open_writer(tmp_path).close()
    broken = Schema("t", (*SCHEMA.migrations, ("0002_bad", "CREATE TABLE a (\n x BIGINT\n);\nNONSENSE;\n")), ())
    with pytest.raises(apsw.SQLError):
        open_writer(tmp_path, broken)
    writer = open_writer(tmp_path)
    writer.close()
    connection = apsw.Connection(str(tmp_path / "mail.db"))
    assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'a'").fetchall() == [(0,)]
    connection.close()


DIES: Final = """
import os, sys
from pathlib import Path
from gatepost.db import writer
from tests.db.test_migrate import NEXT
from tests.db.world import open_writer
left = int(sys.argv[2])
def spelled(text, tokens, real=writer.spelled):
    global left
    for statement in real(text, tokens):
        yield statement
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
writer.spelled = spelled
open_writer(Path(sys.argv[1]), NEXT).close()
"""


@pytest.mark.process
@pytest.mark.row("REL-17")
def test_killed_at_each_statement_the_next_start_finishes_the_migration(tmp_path: Path) -> None:
    old = open_writer(tmp_path)
    old.commit_batch([named(*adds(key).steps) for key in range(1, 4)])
    old.close()
    statements = len(spelled(LATER[1], SQLITE_TOKENS))
    assert statements == 3
    for at in range(1, statements + 1):
        died = subprocess.run(
            [sys.executable, "-c", DIES, str(tmp_path), str(at)], cwd=Path(__file__).parents[2], env=os.environ
        )
        assert died.returncode == -9
        connection = apsw.Connection(str(tmp_path / "mail.db"), flags=apsw.SQLITE_OPEN_READONLY)
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(1,)]
        connection.close()
    open_writer(tmp_path, NEXT).close()
    connection = apsw.Connection(str(tmp_path / "mail.db"))
    assert connection.execute("SELECT id, n FROM more ORDER BY id").fetchall() == [(1, 7), (2, 7), (3, 7)]
    connection.close()


def test_two_statements_of_one_name_are_refused() -> None:
    twin = Schema("u", (), (Statement("t.add", "SELECT 1"),))
    with pytest.raises(ValueError, match=r"t\.add"):
        by_name((SCHEMA, twin))
