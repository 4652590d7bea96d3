"""SQLite in this process: the writer in a thread with group commit, readers on the loop and beside it."""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import apsw

from gatepost.db.migrate import sqlite_text
from gatepost.db.unit import NotCommitted, Notice, Params, Rows, Schema, Statement, Unhealthy, Unit
from gatepost.db.writer import Floor, Step, Writer

BATCH_UNITS: Final = 512
WAITING_UNITS: Final = 4096  # more waiting means that the disk does not keep up: answer 451 at once
LONG_READERS: Final = 2


class Listeners:
    """Who wants to hear of which topic; called on the loop."""

    def __init__(self) -> None:
        self._heard: dict[str, list[Callable[[int], None]]] = defaultdict(list)

    def add(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Register; return the way to stop."""
        self._heard[topic].append(heard)
        return lambda: self._heard[topic].remove(heard)

    def tell(self, notices: Sequence[Notice]) -> None:
        """Call everybody who listens."""
        for notice in notices:
            for heard in tuple(self._heard.get(notice.topic, ())):
                heard(notice.key)


class Readers:
    """Read-only connections to one file: one for short reads on the loop, a few threads for long ones."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._near: apsw.Connection | None = None
        self._far = threading.local()
        self._threads: ThreadPoolExecutor | None = None

    def read(self, statement: Statement, params: Params) -> Rows:
        """Run a short SELECT here and now."""
        if self._near is None:
            self._near = self._open()
        return self._near.execute(sqlite_text(statement.sql), params).fetchall()

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run a SELECT in a thread: one long query releases the interpreter."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LONG_READERS, "reader")
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._far_read, statement, params)

    def close(self) -> None:
        """Close every connection."""
        if self._threads is not None:
            self._threads.shutdown()
        if self._near is not None:
            self._near.close()

    def _far_read(self, statement: Statement, params: Params) -> Rows:
        connection = getattr(self._far, "connection", None)
        if connection is None:
            connection = self._far.connection = self._open()
        assert isinstance(connection, apsw.Connection)
        return connection.execute(sqlite_text(statement.sql), params).fetchall()

    def _open(self) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY, statementcachesize=256)
        connection.set_busy_timeout(1000)
        connection.pragma("query_only", 1)
        connection.pragma("cache_size", -8192)
        connection.pragma("mmap_size", 256 << 20)
        return connection


class SqliteDatabase:
    """A Database whose writer is a thread of this process."""

    def __init__(self, path: Path, writer: Writer) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        self._readers = Readers(path)
        self._listeners = Listeners()
        self._waiting: deque[tuple[Unit, asyncio.Future[tuple[Rows, ...]]]] = deque()
        self._more = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run a short SELECT on the loop's own connection."""
        return self._readers.read(statement, params)

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run a SELECT off the loop."""
        return await self._readers.read_long(statement, params)

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Wait for the transaction that this unit shares with all that wait now."""
        if self._ends or len(self._waiting) >= WAITING_UNITS:
            raise Unhealthy("the database is closing" if self._ends else "too many units wait for the disk")
        future: asyncio.Future[tuple[Rows, ...]] = self._loop.create_future()
        with self._more:
            self._waiting.append((unit, future))
            self._more.notify()
        return await future

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Hear of notices that this process commits."""
        return self._listeners.add(topic, heard)

    async def close(self) -> None:
        """Commit what waits, then close the file."""
        with self._more:
            self._ends = True
            self._more.notify()
        await asyncio.to_thread(self._thread.join)
        self._readers.close()
        self._writer.close()

    def _write(self) -> None:
        """The writer's thread: take all that waits, commit it, answer in one call to the loop."""
        while True:
            with self._more:
                while not self._waiting and not self._ends:
                    self._more.wait()
                if not self._waiting:
                    return
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_UNITS))]
            outcomes = self._writer.commit_batch([steps_of(unit) for unit, _ in batch])
            try:
                self._loop.call_soon_threadsafe(self._answer, batch, outcomes)
            except RuntimeError:
                return  # the loop is gone, and with it everybody who waited

    def _answer(
        self,
        batch: list[tuple[Unit, asyncio.Future[tuple[Rows, ...]]]],
        outcomes: list[tuple[Rows, ...] | NotCommitted],
    ) -> None:
        for (unit, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, NotCommitted):
                if not future.done():
                    future.set_exception(outcome)
                continue
            if not future.done():
                future.set_result(outcome)
            self._listeners.tell(unit.notices)


async def open_database(
    path: Path,
    schemas: tuple[Schema, ...],
    *,
    steady: Callable[[], float],
    durable: bool = True,
    floor: Floor | None = None,
) -> SqliteDatabase:
    """Open or make the file, bring its tables up to date, and start the writer.

    Raises DatabaseInUse, DatabaseDamaged, SchemaTooNew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = await asyncio.to_thread(Writer, path, schemas, durable=durable, steady=steady, floor=floor)
    return SqliteDatabase(path, writer)


def steps_of(unit: Unit) -> tuple[Step, ...]:
    """Return a unit's steps by the names of their statements: what crosses to the writer."""
    return tuple((step.statement.name, step.params) for step in unit.steps)
