"""One SQL text for both engines: every statement of every stage keeps to what both understand, and compiles."""

import importlib
import re
from pathlib import Path
from typing import Final

import apsw
import apsw.ext
import psycopg
import pytest
from psycopg import errors
from psycopg.rows import TupleRow

from gatepost.db.files import open_writing
from gatepost.db.migrate import SQLITE_TOKENS, by_name, sqlite_text
from gatepost.db.postgres import open_database, postgres_text
from gatepost.db.unit import Schema, Statement
from gatepost.db.writer import migrate
from tests.support import postgres
from tests.support.loop import run

SOURCE: Final = Path(__file__).parents[2] / "src" / "gatepost"
SQL_FILES: Final = sorted(SOURCE.glob("**/sql.py"))
REFUSED: Final = {
    r"\b(LIKE|ILIKE|GLOB|REGEXP)\b": "patterns differ: compare exactly, or by range",
    r"\b(IFNULL|NVL|IIF|TOTAL|GROUP_CONCAT|STRING_AGG|PRINTF)\s*\(": "one engine only",
    r"\b(AUTOINCREMENT|ROWID|LAST_INSERT_ROWID|CHANGES|SERIAL|NEXTVAL)\b": "ids are made by the caller",
    r"\b(REPLACE\s+INTO|INSERT\s+OR\s+\w+)\b": "say ON CONFLICT",
    r"\b(ARRAY|ANY|ALL)\s*[\[(]": "no arrays",
    r"\b(MAX|MIN)\s*\([^()]*,": "scalar MAX and MIN are SQLite's: say CASE",
    r"\b(NOW|CURRENT_TIMESTAMP|CURRENT_DATE|DATETIME|STRFTIME|RANDOM)\b": "time and chance are parameters",
    r"\b(TRUE|FALSE)\b": "booleans are 0 and 1",
    r"\bWITH\b[^;]*\bAS\s*\(\s*(INSERT|UPDATE|DELETE)\b": "no DML in WITH",
    r"::": "say CAST",
    r"\?\d*|\$\d+|%s|%\(": "named parameters only",
    r"\bFOR\s+UPDATE\b": "SQLite has one writer; the condition stands in the statement",
}
DDL_REFUSED: Final = {
    r"\b(INTEGER|INT|SMALLINT|BOOLEAN|BOOL|TIMESTAMP|DATETIME|BLOB|BYTEA|JSONB?|VARCHAR|REAL|NUMERIC)\b": (
        "types are {ID}, BIGINT, TEXT, {OCTETS}, DOUBLE PRECISION"
    ),
    r"\b(WITHOUT\s+ROWID|STRICT)\b": "say {CLUSTERED}",
    r"\bCREATE\s+TRIGGER\b": "what happens stands in the unit",
}


def schemas() -> list[Schema]:
    """Every stage's schema, found by its place."""
    names = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in SQL_FILES]
    return [importlib.import_module(name).SCHEMA for name in names]


SCHEMAS: Final = schemas()
STATEMENTS: Final = [statement for schema in SCHEMAS for statement in schema.statements]


def bare(sql: str) -> str:
    """SQL without comments, the content of strings, and the names of parameters."""
    return re.sub(r":[a-z_][a-z0-9_]*", ":p", re.sub(r"'(?:[^']|'')*'", "''", re.sub(r"--[^\n]*", "", sql)))


def numbered(text: bytes) -> bytes:
    """The driver's placeholders as the server numbers them."""
    names: dict[bytes, int] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return b"$%d" % names.setdefault(found[1], len(names) + 1)

    return re.sub(rb"%\(([a-z_0-9]+)\)s", number, text).replace(b"%%", b"%")


def prepare(connection: psycopg.Connection[TupleRow], at: int, text: bytes) -> None:
    """Prepare a statement; a number whose type the server cannot tell is BIGINT, as the driver says."""
    types: dict[int, bytes] = {}
    while True:
        listed = [types.get(number, b"unknown") for number in range(1, max(types, default=0) + 1)]
        declared = b" (" + b", ".join(listed) + b")" if listed else b""
        try:
            connection.execute(b"PREPARE s%d%s AS " % (at, declared) + text)
        except (errors.AmbiguousParameter, errors.IndeterminateDatatype) as unclear:
            found = re.search(r"parameter \$([0-9]+)", str(unclear))
            if found is None or int(found[1]) in types:
                raise
            types[int(found[1])] = b"bigint"
        else:
            return


def test_stages_with_tables_are_found() -> None:
    assert {"accounts", "blobs", "queue", "store"} <= {schema.stage for schema in SCHEMAS}
    by_name(SCHEMAS)


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.name)
def test_a_statement_keeps_to_the_common_subset(statement: Statement) -> None:
    sql = bare(statement.sql)
    for pattern, remedy in REFUSED.items():
        found = re.search(pattern, sql, re.IGNORECASE)
        assert found is None, f"{statement.name} says {found and found[0]!r}: {remedy}"
    assert ";" not in sql
    assert re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", statement.name)
    assert statement.returns or "RETURNING" not in sql, f"{statement.name} throws its RETURNING away"
    assert not (statement.needs_row and sql.lstrip().upper().startswith("SELECT"))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.stage)
def test_tables_keep_to_the_common_subset(schema: Schema) -> None:
    for name, text in schema.migrations:
        sql = bare(text)
        for pattern, remedy in (REFUSED | DDL_REFUSED).items():
            found = re.search(pattern, sql, re.IGNORECASE)
            assert found is None, f"{schema.stage} {name} says {found and found[0]!r}: {remedy}"


def test_every_statement_compiles_on_sqlite(tmp_path: Path) -> None:
    connection = open_writing(tmp_path / "all.db", durable=False)
    migrate(connection, SCHEMAS)
    for statement in STATEMENTS:
        try:
            apsw.ext.query_info(connection, sqlite_text(statement.sql), explain_query_plan=False)
        except apsw.Error as wrong:
            raise AssertionError(f"{statement.name}: {wrong}") from wrong
    connection.close()


@pytest.mark.peer("postgresql")
def test_every_statement_compiles_on_postgresql() -> None:
    async def scene() -> None:
        dsn = postgres.fresh_dsn()
        await (await open_database(dsn, tuple(SCHEMAS))).close()
        with psycopg.connect(dsn, autocommit=True) as connection:
            for at, statement in enumerate(STATEMENTS):
                try:
                    prepare(connection, at, numbered(postgres_text(statement.sql)))
                except psycopg.Error as wrong:
                    raise AssertionError(f"{statement.name}: {wrong}") from wrong

    run(scene())


def test_tokens_are_spelled_in_statements() -> None:
    for statement in STATEMENTS:
        assert not any(token in sqlite_text(statement.sql) for token in SQLITE_TOKENS)
        assert b"{" not in postgres_text(statement.sql)
