"""PostgreSQL behind the same Protocol: a unit is one transaction, notices are NOTIFY after it.

Units of different sessions are not batched here: the server groups its commits itself. That is why NOTIFY is not
part of the unit: the server commits transactions with a NOTIFY one after the other, each with its own fsync. One
connection sends the notices of all that was committed meanwhile, another one listens.

Statements are written once for both engines; `postgres_text` turns `:name` into the driver's placeholder when a
statement is first used.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from typing import Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.numeric import Int8BinaryDumper

from gatepost.db.listeners import Listeners
from gatepost.db.migrate import POSTGRES_TOKENS, VERSION_TABLE, all_due, spelled
from gatepost.db.params import checked
from gatepost.db.unit import (
    Clash,
    NoRoom,
    NotCommitted,
    Notice,
    Params,
    Rows,
    Schema,
    Statement,
    Unhealthy,
    Unit,
    Unmet,
)

CONNECTIONS: Final = 8
CHANNEL: Final = "gatepost"
MIGRATION_LOCK: Final = 0x67617465  # an arbitrary number of ours for pg_advisory_lock
TRIES: Final = 4  # of a unit that met a deadlock: it is data, so it can be run again
RECONNECT_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
CONNECT_S: Final = 5
KEPT_STATEMENTS: Final = 300

Connection = psycopg.AsyncConnection[TupleRow]
T = TypeVar("T")

_TOKENS: Final = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|::|:([a-z_][a-z0-9_]*)|%|--[^\n]*")


@lru_cache(maxsize=2048)
def postgres_text(sql: str) -> bytes:
    """Rewrite `:name` to `%(name)s` outside of strings, names, comments and casts; spell the tokens."""
    for token, words in POSTGRES_TOKENS.items():
        sql = sql.replace(token, words)

    def rewrite(found: re.Match[str]) -> str:
        if found[1]:
            return f"%({found[1]})s"
        return found[0].replace("%", "%%")

    return _TOKENS.sub(rewrite, sql).encode()


class _Number(Loader):
    """NUMERIC, which SUM makes of BIGINT, as the int that SQLite returns."""

    format = Format.TEXT

    def load(self, data: Buffer) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text else int(text)


class _Truth(Loader):
    """A comparison as the 0 or 1 that SQLite returns."""

    format = Format.BINARY

    def load(self, data: Buffer) -> int:
        return bytes(data)[0]


class _NumberBinary(_Number):
    """The same, sent in binary: base 10000 digits (numeric_recv in the server's numeric.c)."""

    format = Format.BINARY

    def load(self, data: Buffer) -> int | float:
        octets = bytes(data)
        digits, power, sign = (int.from_bytes(octets[at : at + 2], "big", signed=True) for at in (0, 2, 4))
        value: int | float = 0
        for at in range(digits):
            digit = int.from_bytes(octets[8 + 2 * at : 10 + 2 * at], "big")
            place = power - at
            value += digit * 10000**place if place >= 0 else digit / 10000**-place
        return -value if sign else value


def _adapt(adapters: AdaptersMap) -> None:
    """One type a value, whatever its size: each statement is then prepared once."""
    adapters.register_dumper(int, Int8BinaryDumper)
    for loader in (_Number, _NumberBinary):
        adapters.register_loader("numeric", loader)
    adapters.register_loader("bool", _Truth)


class PostgresDatabase:
    """A Database on a PostgreSQL server."""

    def __init__(self, dsn: str, *, durable: bool = True, connections: int = CONNECTIONS) -> None:
        self._dsn = dsn
        self._durable = durable
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(connections)
        self._listeners = Listeners()
        self._unsent: dict[Notice, None] = {}
        self._news = asyncio.Event()
        self._ear: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, schemas: Sequence[Schema]) -> None:
        """Bring the tables up to date and begin to hear notices."""
        async with await self._connect() as connection:
            await _migrate(connection, schemas)
        self._ear = await self._listening()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._hear()), loop.create_task(self._notify())]

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT in a transaction of its own."""
        values = checked(params)

        async def select(connection: Connection) -> Rows:
            cursor = await connection.execute(postgres_text(statement.sql), values, binary=True)
            return await cursor.fetchall()

        return await self._with_connection(select)

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT; the server does the work off our loop anyway."""
        return await self.read(statement, params)

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Run a unit in one transaction."""
        steps = [(statement, checked(params)) for statement, params in unit.steps]
        for left in reversed(range(TRIES)):
            try:
                rows = await self._with_connection(lambda connection: _run(connection, steps))
                break
            except _Again as conflict:
                if not left:
                    raise Unhealthy(str(conflict)) from conflict
        if unit.notices:
            self._unsent.update(dict.fromkeys(unit.notices))
            self._news.set()
        return rows

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Hear of what any process committed; key 0 after the server was away: anything may have changed."""
        return self._listeners.add(topic, heard)

    async def close(self) -> None:
        """Send the last notices and close every connection."""
        for _ in range(100):
            if not self._unsent:
                break
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._ear is not None:
            await self._ear.close()
        await self._close_idle()

    async def _with_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` with a connection of the pool; what the driver raises becomes NotCommitted."""
        try:
            async with self._connection() as connection:
                return await work(connection)
        except (errors.DeadlockDetected, errors.SerializationFailure) as conflict:
            raise _Again(str(conflict)) from conflict
        except (errors.IntegrityError, errors.DataError) as clash:
            raise Clash(str(clash)) from clash
        except errors.DiskFull as full:
            raise NoRoom(str(full)) from full
        except (errors.SyntaxErrorOrAccessRuleViolation, psycopg.ProgrammingError):
            raise  # a bug, not the weather
        except psycopg.Error as error:
            raise Unhealthy(str(error)) from error

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._room:
            connection = self._idle.pop() if self._idle else await self._connect()
            try:
                yield connection
            finally:
                if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
                    await connection.close()
                    await self._close_idle()
                else:
                    self._idle.append(connection)

    async def _close_idle(self) -> None:
        """After one connection broke, the others may have been cut as well: begin anew with all."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _connect(self) -> Connection:
        settings = "-c synchronous_commit=" + ("on" if self._durable else "off")
        connection = await psycopg.AsyncConnection.connect(
            self._dsn, autocommit=True, options=settings, connect_timeout=CONNECT_S
        )
        connection.prepared_max = KEPT_STATEMENTS
        _adapt(connection.adapters)
        return connection

    async def _listening(self) -> Connection:
        connection = await self._connect()
        await connection.execute(f"LISTEN {CHANNEL}")
        return connection

    async def _hear(self) -> None:
        """Tell what any process notified; connect again when the server was away."""
        while True:
            with contextlib.suppress(psycopg.Error):
                assert self._ear is not None
                async with self._ear:
                    async for notify in self._ear.notifies():
                        topic, _, key = notify.payload.partition(" ")
                        self._listeners.tell((Notice(topic, int(key)),))
            for wait in chain(RECONNECT_S, repeat(RECONNECT_S[-1])):
                await asyncio.sleep(wait)
                with contextlib.suppress(psycopg.Error):
                    self._ear = await self._listening()
                    break
            self._listeners.tell_everything()

    async def _notify(self) -> None:
        """Send the notices of all units that were committed since the last time, in one statement."""
        while True:
            await self._news.wait()
            self._news.clear()
            told, self._unsent = list(self._unsent), {}
            with contextlib.suppress(NotCommitted):
                await self._with_connection(partial(_send, notices=told))


class _Again(Exception):
    """The server undid a unit because of another one: it can be run again."""


async def _send(connection: Connection, notices: Sequence[Notice]) -> None:
    payloads = [f"{notice.topic} {notice.key}" for notice in notices]
    await connection.execute(
        "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload", (CHANNEL, payloads)
    )


async def _run(connection: Connection, steps: Sequence[tuple[Statement, Params]]) -> tuple[Rows, ...]:
    """Run a unit: all of its steps in one round trip, COMMIT in a second one when every precondition is met."""
    async with connection.pipeline() as pipeline, connection.transaction():
        cursors = [
            (statement, await connection.execute(postgres_text(statement.sql), params, binary=True))
            for statement, params in steps
        ]
        await pipeline.sync()
        rows: list[Rows] = []
        for statement, cursor in cursors:
            if statement.needs_row and cursor.rowcount < 1:
                raise Unmet(statement.name)
            if statement.returns:
                rows.append(await cursor.fetchall())
    return tuple(rows)


async def _migrate(connection: Connection, schemas: Sequence[Schema]) -> None:
    """Apply what is due, one process at a time, each migration in a transaction of its own."""
    await connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
    try:
        await connection.execute(VERSION_TABLE)
        cursor = await connection.execute("SELECT stage, version FROM schema_version")
        versions = {str(stage): int(version) for stage, version in await cursor.fetchall()}
        for stage, number, _name, text in all_due(schemas, versions):
            async with connection.transaction():
                for statement in spelled(text, POSTGRES_TOKENS):
                    await connection.execute(statement.encode())
                await connection.execute(
                    "INSERT INTO schema_version (stage, version) VALUES (%s, %s)"
                    " ON CONFLICT (stage) DO UPDATE SET version = excluded.version",
                    (stage, number),
                )
    finally:
        await connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))


async def open_database(dsn: str, schemas: tuple[Schema, ...], *, durable: bool = True) -> PostgresDatabase:
    """Connect, bring the tables up to date; raises psycopg.OperationalError, SchemaTooNew."""
    database = PostgresDatabase(dsn, durable=durable)
    await database.start(schemas)
    return database
