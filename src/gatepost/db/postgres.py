"""PostgreSQL behind the same Protocol: a unit is one transaction, notices are NOTIFY after it.

Units of different sessions are not batched here: the server groups its commits itself. That is why NOTIFY is not
part of the unit: the server commits transactions with a NOTIFY one after the other, each with its own fsync. One
connection sends the notices of all that was committed meanwhile, another one listens. Listeners of the process
that committed hear at once, and not a second time from the server.

What a unit may expect is what the keeper promises. A step that met no row names its unit's failure, whatever the
steps behind it would have met; a deadlock is run again; everything else that the server or the network does is
Unhealthy, and a connection that has not ended its transaction is closed and never used again.

Statements are written once for both engines; `postgres_text` turns `:name` into the driver's placeholder when a
statement is first used.
"""

import asyncio
import contextlib
import re
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import chain, repeat
from secrets import token_hex
from typing import Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.conninfo import make_conninfo
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
WAITING_MAX: Final = 4096  # more waiting for a connection means that the server does not keep up: answer 451
CHANNEL: Final = "gatepost"
MIGRATION_LOCK: Final = 0x67617465  # an arbitrary number of ours for pg_advisory_lock
TRIES: Final = 4  # of what met a deadlock: a unit is data, so it can be run again
NOTICES_A_TIME: Final = 10_000
RECONNECT_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0)
CONNECT_S: Final = 5
KEPT_STATEMENTS: Final = 300
SETTINGS: Final[Mapping[str, str]] = {
    "statement_timeout": "60s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}
"""What the server does to a statement or transaction of ours that takes too long: Unhealthy, and its locks go."""

KEEPALIVE: Final[Mapping[str, int]] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # ms
}
"""A server that is gone without a word is missed within half a minute; means nothing on a Unix socket."""

Connection = psycopg.AsyncConnection[TupleRow]
T = TypeVar("T")

_PAYLOAD: Final = re.compile(r"([a-z_.]+) (-?[0-9]{1,19}) ([0-9a-f]{16})", re.ASCII)
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
        self._dsn = make_conninfo(dsn, **KEEPALIVE)
        self._durable = durable
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(connections)
        self._waiting = 0
        self._closed = False
        self._name = token_hex(8)
        self._listeners = Listeners()
        self._unsent: dict[Notice, None] = {}
        self._news = asyncio.Event()
        self._ear: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, schemas: Sequence[Schema]) -> None:
        """Bring the tables up to date and begin to hear notices; raises SchemaTooNew, Unhealthy, psycopg.Error."""
        async with await self._connect() as connection:
            for name in SETTINGS:  # a migration, or waiting for another process's, takes what it takes
                await connection.execute(f"SET {name} = 0".encode())
            await _migrate(connection, schemas)
        self._ear = await self._listening()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._hear()), loop.create_task(self._notify())]

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT in a transaction of its own."""
        values = checked(params)

        async def found(connection: Connection) -> Rows:
            cursor = await connection.execute(postgres_text(statement.sql), values, binary=True)
            return await cursor.fetchall()

        return await self._again(found)

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run one SELECT; the server does the work off our loop anyway."""
        return await self.read(statement, params)

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Run a unit in one transaction."""
        steps = [(statement, checked(params)) for statement, params in unit.steps]
        try:
            rows = await self._again(lambda connection: _run(connection, steps))
        except psycopg.Error as bug:
            raise Unhealthy(str(bug)) from bug
        if unit.notices:
            self._listeners.tell(unit.notices)
            self._unsent.update(dict.fromkeys(unit.notices))
            self._news.set()
        return rows

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Hear of what any process committed; key 0 after the server was away: anything may have changed."""
        return self._listeners.add(topic, heard)

    async def close(self) -> None:
        """Send the last notices and close every connection, those in use when they come back."""
        with contextlib.suppress(NotCommitted, TimeoutError, psycopg.Error):
            async with asyncio.timeout(CONNECT_S):
                await self._send_unsent()
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._ear is not None:
            await self._ear.close()
        await self._close_idle()

    async def _again(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` as `_with_connection` does, and once more after each deadlock."""
        for left in reversed(range(TRIES)):
            try:
                return await self._with_connection(work)
            except _Again as conflict:
                if not left:
                    raise Unhealthy(str(conflict)) from conflict
        raise AssertionError("the last try has returned or raised")

    async def _with_connection(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` with a connection of the pool.

        What the driver raises becomes NotCommitted or _Again; psycopg.ProgrammingError is a bug and stays.
        """
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
        """Lend a connection; one that comes back inside a transaction (an error, a cancelled task) is closed."""
        if self._waiting >= WAITING_MAX:
            raise Unhealthy("too many units wait for the database")
        self._waiting += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1
        try:
            connection = await self._idle_one() or await self._connect()
            try:
                yield connection
            finally:
                if self._closed or connection.info.transaction_status != TransactionStatus.IDLE:
                    await connection.close()
                else:
                    self._idle.append(connection)
        finally:
            self._room.release()

    async def _idle_one(self) -> Connection | None:
        """Return an idle connection that the server has not cut meanwhile, None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if not _was_cut(connection):
                return connection
            await connection.close()
        return None

    async def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _connect(self) -> Connection:
        """Make a connection; the promise of its commits is read back, for a pooler may drop our options."""
        wanted = "on" if self._durable else "off"
        settings = {**SETTINGS, "synchronous_commit": wanted}
        connection = await psycopg.AsyncConnection.connect(
            self._dsn,
            autocommit=True,
            options=" ".join(f"-c {name}={value}" for name, value in settings.items()),
            connect_timeout=CONNECT_S,
        )
        connection.prepared_max = KEPT_STATEMENTS
        _adapt(connection.adapters)
        try:
            cursor = await connection.execute("SELECT current_setting('synchronous_commit')")
            found = await cursor.fetchone()
            if found is None or (self._durable and found[0] not in ("on", "remote_apply")):
                raise Unhealthy("the server would acknowledge mail before it is on the disk (synchronous_commit)")
        except BaseException:
            await connection.close()
            raise
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
                        self._listeners.tell(_notices(notify.payload, self._name))
            for wait in chain(RECONNECT_S, repeat(RECONNECT_S[-1])):
                await asyncio.sleep(wait)
                with contextlib.suppress(psycopg.Error, Unhealthy):
                    self._ear = await self._listening()
                    break
            self._listeners.tell_everything()

    async def _notify(self) -> None:
        """Send the notices of all units that were committed since the last time; again when the server is back."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._send_unsent()
            except (NotCommitted, _Again):
                self._news.set()
                await asyncio.sleep(RECONNECT_S[-1])

    async def _send_unsent(self) -> None:
        """Send what is to be told, in one statement; it stays to be told when this raises NotCommitted, _Again."""
        told = list(self._unsent)[:NOTICES_A_TIME]
        if not told:
            return
        await self._with_connection(partial(_send, notices=told, sender=self._name))
        for notice in told:
            self._unsent.pop(notice, None)
        if self._unsent:
            self._news.set()


class _Again(Exception):
    """The server undid a unit because of another one: it can be run again."""


def _was_cut(connection: Connection) -> bool:
    """Tell whether the server said something to an idle connection: its end, in all but the rarest case."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _notices(payload: str, listener: str) -> tuple[Notice, ...]:
    """Read a payload of another gatepost; what `listener` said itself, and what is none of ours, tells nothing."""
    found = _PAYLOAD.fullmatch(payload)
    return (Notice(found[1], int(found[2])),) if found is not None and found[3] != listener else ()


async def _send(connection: Connection, notices: Sequence[Notice], sender: str) -> None:
    payloads = [f"{notice.topic} {notice.key} {sender}" for notice in notices]
    await connection.execute(
        "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload", (CHANNEL, payloads)
    )


async def _run(connection: Connection, steps: Sequence[tuple[Statement, Params]]) -> tuple[Rows, ...]:
    """Run a unit: all of its steps in one round trip, COMMIT in a second one when every precondition is met."""
    cursors: list[tuple[Statement, psycopg.AsyncCursor[TupleRow]]] = []
    async with connection.pipeline() as pipeline, connection.transaction():
        try:
            for statement, params in steps:
                text = postgres_text(statement.sql)
                cursors.append((statement, await connection.execute(text, params, binary=True)))
            await pipeline.sync()
        except psycopg.Error:
            _refuse_unmet(cursors)  # a step before the one that failed
            raise
        _refuse_unmet(cursors)
        rows = [await cursor.fetchall() for statement, cursor in cursors if statement.returns]
    return tuple(rows)


def _refuse_unmet(cursors: Sequence[tuple[Statement, "psycopg.AsyncCursor[TupleRow]"]]) -> None:
    """Raise Unmet for the first step that needed a row and met none; a step that did not run says -1."""
    for statement, cursor in cursors:
        if statement.needs_row and cursor.rowcount == 0:
            raise Unmet(statement.name)


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
    """Connect, bring the tables up to date; raises psycopg.Error, SchemaTooNew, Unhealthy."""
    database = PostgresDatabase(dsn, durable=durable)
    await database.start(schemas)
    return database
