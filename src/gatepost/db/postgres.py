"""PostgreSQL behind the same Protocol: a unit is one transaction, notices are NOTIFY in it.

Units of different sessions are not batched here: the server groups its commits itself. Statements are written
once for both engines; `postgres_text` turns `:name` into the driver's placeholder when a statement is first used.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from typing import Final

import psycopg
from psycopg import errors
from psycopg.rows import TupleRow

from gatepost.db.migrate import POSTGRES_TOKENS, VERSION_TABLE, due, spelled
from gatepost.db.sqlite import Listeners
from gatepost.db.unit import Clash, NoRoom, Notice, Params, Rows, Schema, Statement, Unhealthy, Unit, Unmet

CONNECTIONS: Final = 8
CHANNEL: Final = "gatepost"
MIGRATION_LOCK: Final = 0x67617465  # an arbitrary number of ours for pg_advisory_lock

Connection = psycopg.AsyncConnection[TupleRow]

_TOKENS: Final = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|::|:([a-z_][a-z0-9_]*)|%|--[^\n]*")


@lru_cache(maxsize=2048)
def postgres_text(sql: str) -> str:
    """Rewrite `:name` to `%(name)s` outside of strings, names, comments and casts; spell the tokens."""
    for token, words in POSTGRES_TOKENS.items():
        sql = sql.replace(token, words)

    def rewrite(found: re.Match[str]) -> str:
        if found[1]:
            return f"%({found[1]})s"
        return found[0].replace("%", "%%")

    return _TOKENS.sub(rewrite, sql)


class PostgresDatabase:
    """A Database on a PostgreSQL server."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._free: asyncio.Queue[Connection] = asyncio.Queue()
        self._open = 0
        self._listeners = Listeners()
        self._news: asyncio.Task[None] | None = None

    async def start(self, schemas: Sequence[Schema]) -> None:
        """Bring the tables up to date and begin to hear notices."""
        async with await self._connect() as connection:
            await _migrate(connection, schemas)
        listening = await self._connect()
        await listening.execute(f"LISTEN {CHANNEL}")
        self._news = asyncio.get_running_loop().create_task(self._hear(listening))

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT in a transaction of its own."""
        async with self._connection() as connection:
            cursor = await connection.execute(postgres_text(statement.sql).encode(), params, binary=True)
            return await cursor.fetchall()

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT; the server does the work off our loop anyway."""
        return await self.read(statement, params)

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Run a unit in one transaction."""
        try:
            async with self._connection() as connection, connection.transaction():
                return await _run(connection, unit)
        except Unmet:
            raise
        except (errors.IntegrityError, errors.DataError) as clash:
            raise Clash(str(clash)) from clash
        except (errors.DiskFull, errors.OutOfMemory, errors.TooManyConnections) as full:
            raise NoRoom(str(full)) from full
        except psycopg.Error as error:
            raise Unhealthy(str(error)) from error

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Hear of what any process committed."""
        return self._listeners.add(topic, heard)

    async def close(self) -> None:
        """Close every connection."""
        if self._news is not None:
            self._news.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._news
        while self._open:
            connection = await self._free.get()
            await connection.close()
            self._open -= 1

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if self._free.empty() and self._open < CONNECTIONS:
            self._open += 1
            try:
                connection = await self._connect()
            except psycopg.Error as error:
                self._open -= 1
                raise Unhealthy(str(error)) from error
        else:
            connection = await self._free.get()
        try:
            yield connection
        finally:
            if connection.closed:
                self._open -= 1
            else:
                self._free.put_nowait(connection)

    async def _hear(self, connection: Connection) -> None:
        async with connection:
            async for notify in connection.notifies():
                topic, _, key = notify.payload.partition(" ")
                self._listeners.tell((Notice(topic, int(key)),))


async def _run(connection: Connection, unit: Unit) -> tuple[Rows, ...]:
    rows: list[Rows] = []
    for step in unit.steps:
        statement = step.statement
        cursor = await connection.execute(postgres_text(statement.sql).encode(), step.params, binary=True)
        if statement.needs_row and cursor.rowcount < 1:
            raise Unmet(statement.name)
        if statement.returns:
            rows.append(await cursor.fetchall())
    for notice in unit.notices:
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{notice.topic} {notice.key}"))
    return tuple(rows)


async def _migrate(connection: Connection, schemas: Sequence[Schema]) -> None:
    """Apply what is due, one process at a time, each migration in a transaction of its own."""
    await connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
    try:
        await connection.execute(VERSION_TABLE)
        cursor = await connection.execute("SELECT stage, version FROM schema_version")
        versions = {str(stage): int(version) for stage, version in await cursor.fetchall()}
        for schema in schemas:
            for number, _name, text in due(schema, versions.get(schema.stage, 0)):
                async with connection.transaction():
                    for statement in spelled(text, POSTGRES_TOKENS):
                        await connection.execute(statement.encode())
                    await connection.execute(
                        "INSERT INTO schema_version (stage, version) VALUES (%s, %s)"
                        " ON CONFLICT (stage) DO UPDATE SET version = excluded.version",
                        (schema.stage, number),
                    )
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


async def open_database(dsn: str, schemas: tuple[Schema, ...]) -> PostgresDatabase:
    """Connect, bring the tables up to date; raises psycopg.OperationalError, SchemaTooNew."""
    database = PostgresDatabase(dsn)
    await database.start(schemas)
    return database
