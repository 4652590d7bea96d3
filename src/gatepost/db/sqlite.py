"""SQLite in this process: the writer in a thread with group commit, readers on the loop and beside it."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gatepost.db.listeners import Listeners
from gatepost.db.params import checked, weight
from gatepost.db.readers import Readers
from gatepost.db.unit import NotCommitted, Notice, Params, Rows, Schema, Statement, Unhealthy, Unit
from gatepost.db.writer import NOBODY, Floor, Outcome, Step, Writer

BATCH_UNITS: Final = 512
WAITING_UNITS: Final = 4096  # more waiting means that the disk does not keep up: answer 451 at once
WAITING_OCTETS: Final = 64 << 20

_Waiting = tuple[tuple[Step, ...], tuple[Notice, ...], "asyncio.Future[tuple[Rows, ...]]", int]


class SqliteDatabase:
    """A Database whose writer is a thread of this process."""

    def __init__(self, path: Path, writer: Writer) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = writer
        writer.let_go = self._from_writer
        self._readers = Readers(path)
        self._listeners = Listeners()
        self._waiting: deque[_Waiting] = deque()
        self._octets = 0
        self._more = threading.Condition()
        self._ends = False
        self.overhear: Callable[[Sequence[Notice]], None] = lambda _: None
        """Called on the loop with all that is committed here: how a door tells its visitors."""
        self.let_go: Callable[[bool], None] = lambda _: None
        """Called on the loop when every reader of the file must close it (True) or may open it (False)."""
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
        return await self.commit_steps(steps_of(unit), unit.notices)

    async def commit_steps(self, steps: tuple[Step, ...], notices: tuple[Notice, ...]) -> tuple[Rows, ...]:
        """Commit steps that are given by the names of their statements."""
        if self._ends:
            raise Unhealthy("the database is closing")
        if len(self._waiting) >= WAITING_UNITS or self._octets >= WAITING_OCTETS:
            raise Unhealthy("too many units wait for the disk")
        octets = sum(weight(params) for _, params in steps)
        future: asyncio.Future[tuple[Rows, ...]] = self._loop.create_future()
        with self._more:
            self._octets += octets
            self._waiting.append((steps, notices, future, octets))
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
        await asyncio.to_thread(self._writer.close)

    def _write(self) -> None:
        """The writer's thread: take all that waits, commit it, answer in one call to the loop."""
        while True:
            batch = self._take()
            if batch is None:
                return
            try:
                if batch:
                    self._tell(self._answer, batch, self._writer.commit_batch([waiting[0] for waiting in batch]))
                self._writer.between_batches()
            except Exception as bug:  # the thread goes on: a writer that is gone would leave everybody waiting
                self._tell(self._report, bug)
                self._tell(self._answer, batch, [Unhealthy("a bug in the writer") for _ in batch])

    def _take(self) -> list[_Waiting] | None:
        """Wait for units; none when the writer is unwell and nobody came; None at the end."""
        with self._more:
            while not self._waiting and not self._ends:
                if not self._more.wait(NOBODY if self._writer.unwell else None) and not self._ends:
                    return []
            if not self._waiting:
                return None
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_UNITS))]
            self._octets -= sum(octets for _, _, _, octets in batch)
            return batch

    def _tell(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            pass  # the loop is gone, and with it everybody who waited

    def _answer(self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        news: dict[Notice, None] = {}
        for (_, notices, future, _), outcome in zip(batch, outcomes, strict=True):
            refused = isinstance(outcome, NotCommitted)
            if not refused and notices:
                news.update(dict.fromkeys(notices))
            if future.done():
                continue
            if isinstance(outcome, NotCommitted):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if news:
            told = tuple(news)
            self._listeners.tell(told)
            self.overhear(told)

    def _report(self, bug: Exception) -> None:
        self._loop.call_exception_handler({"message": "the writer failed", "exception": bug})

    def _from_writer(self, closed: bool) -> None:
        self._tell(self._let_go, closed)

    def _let_go(self, closed: bool) -> None:
        if not self._ends:
            self._readers.let_go(closed)
        self.let_go(closed)


async def open_database(
    path: Path,
    schemas: tuple[Schema, ...],
    *,
    steady: Callable[[], float],
    durable: bool = True,
    floor: Floor | None = None,
    patience: float = 0.0,
) -> SqliteDatabase:
    """Open or make the file, bring its tables up to date, and start the writer.

    Waits `patience` seconds for another process that writes the file. Raises DatabaseInUse, DatabaseDamaged,
    SchemaTooNew.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = await asyncio.to_thread(
        Writer, path, schemas, durable=durable, steady=steady, floor=floor, patience=patience
    )
    return SqliteDatabase(path, writer)


def steps_of(unit: Unit) -> tuple[Step, ...]:
    """Return a unit's steps by the names of their statements: what crosses to the writer."""
    return tuple([(statement.name, checked(params)) for statement, params in unit.steps])
