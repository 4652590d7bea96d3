"""Schemas: read a stage's migrations from its package, spell them for an engine, say which are due.

A migration is a file `<stage>/schema/NNNN_name.sql`: statements ended by `;` at a line's end, one text for both
engines but for three tokens:

    {ID}         a 63-bit key that the caller makes    INTEGER PRIMARY KEY   BIGINT PRIMARY KEY
    {OCTETS}     wire data                             BLOB                  BYTEA
    {CLUSTERED}  after the last ): rows live in their  WITHOUT ROWID         (nothing)
                 primary key, for narrow tables
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Final

from gatepost.db.unit import Schema, Statement

SQLITE_TOKENS: Final = {"{ID}": "INTEGER PRIMARY KEY", "{OCTETS}": "BLOB", "{CLUSTERED}": " WITHOUT ROWID"}
POSTGRES_TOKENS: Final = {"{ID}": "BIGINT PRIMARY KEY", "{OCTETS}": "BYTEA", "{CLUSTERED}": ""}

VERSION_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS schema_version (stage TEXT NOT NULL PRIMARY KEY, version BIGINT NOT NULL)"
)


class SchemaTooNew(Exception):
    """The database was written by a later gatepost: it is not touched."""


def load_schema(stage: str, package: str | None, statements: tuple[Statement, ...]) -> Schema:
    """Read the migrations of `package` in the order of their names; numbers must run from 0001 without a gap."""
    assert package is not None
    folder = files(package) / "schema"
    found = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    for at, name in enumerate(found, 1):
        if name[:5] != f"{at:04}_":
            raise ValueError(f"{stage}: migration {name} is not number {at:04}")
    migrations = tuple((name.removesuffix(".sql"), (folder / name).read_text()) for name in found)
    return Schema(stage, migrations, statements)


def due(schema: Schema, version: int) -> Sequence[tuple[int, str, str]]:
    """Return (number, name, text) of what a database at `version` still needs; SchemaTooNew where it is ahead."""
    newest = len(schema.migrations)
    if version > newest:
        raise SchemaTooNew(
            f"the tables of {schema.stage} are at version {version}, this gatepost knows {newest}: "
            "they were written by a later gatepost; install that one again, or restore a backup"
        )
    return [(at + 1, *schema.migrations[at]) for at in range(version, newest)]


def all_due(schemas: Sequence[Schema], versions: Mapping[str, int]) -> Sequence[tuple[str, int, str, str]]:
    """Return (stage, number, name, text) of all that is due; SchemaTooNew before anything is touched."""
    return [(schema.stage, *each) for schema in schemas for each in due(schema, versions.get(schema.stage, 0))]


def spelled(text: str, tokens: Mapping[str, str]) -> list[str]:
    """Split a migration into statements, spelled for one engine."""
    for token, words in tokens.items():
        text = text.replace(token, words)
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("--")]
    return [piece.strip() for piece in "\n".join(lines).split(";\n") if piece.strip().rstrip(";")]


@lru_cache(maxsize=2048)
def sqlite_text(sql: str) -> str:
    """Return a statement as SQLite spells it."""
    for token, words in SQLITE_TOKENS.items():
        sql = sql.replace(token, words)
    return sql


def by_name(schemas: Sequence[Schema]) -> dict[str, Statement]:
    """Return every statement by its name; ValueError where two share one."""
    table: dict[str, Statement] = {}
    for schema in schemas:
        for statement in schema.statements:
            if table.setdefault(statement.name, statement) is not statement:
                raise ValueError(f"two statements are named {statement.name}")
    return table
