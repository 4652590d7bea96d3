"""The one writer of a SQLite file: group commit, a savepoint a unit, and the rule about errors.

    BEGIN IMMEDIATE
      for each unit that waits:  SAVEPOINT; its steps; RELEASE
                                 a constraint or an unmet precondition undoes this unit alone
    COMMIT                       one fsync for all of them; only then is anybody answered

Any other error, or a connection that has left its transaction (on ENOSPC SQLite rolls all of it back and the
savepoints vanish), ends the batch: nothing more of it is executed, ROLLBACK if one is still open, and every unit
of the batch is answered NoRoom or Unhealthy.

SQLite itself would carry on after an I/O error as if nothing had been lost. Here every unit is Unhealthy from
then on; all readers let the file go, the whole log is copied into the database again and the file is checked
(`files.fold_log`, in a thread); only then is it opened again.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import apsw

from gatepost.db.files import (
    BROKEN,
    BUSY_MS,
    CLOSED,
    LOGGED,
    OPENED,
    PAGE_OCTETS,
    DatabaseDamaged,
    DatabaseInUse,
    Lock,
    check_file,
    fold_log,
    needs_check,
    open_writing,
    refuse_missing_log,
    refuse_old_sqlite,
)
from gatepost.db.migrate import SQLITE_TOKENS, VERSION_TABLE, all_due, by_name, spelled, sqlite_text
from gatepost.db.params import weight
from gatepost.db.room import WAL_MAX_OCTETS, Floor, Room
from gatepost.db.unit import Clash, NoRoom, NotCommitted, Rows, Schema, Unhealthy, Unmet, Value

__all__ = ["DatabaseDamaged", "DatabaseInUse", "Floor", "Writer"]

CHECKPOINT_OCTETS: Final = 4 << 20
RESTART_OCTETS: Final = 64 << 20
RESTART_WAIT_MS: Final = 20
SMALL_UNIT_OCTETS: Final = 1024  # what still passes when the disk is nearly full: flags, expunges, results
RECOVER_EVERY_S: Final = (0.0, 1.0, 2.0, 5.0, 15.0, 60.0)
NOBODY: Final = 0.1
"""Seconds after which an owner without units calls `between_batches` while the writer is unwell."""

Step = tuple[str, Mapping[str, Value]]
Outcome = tuple[Rows, ...] | NotCommitted

_FATAL: Final = (
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.ProtocolError,
)
_OF_THE_UNIT: Final = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, Unmet)


class Writer:
    """Owns the writing connection. Not thread-safe: one thread calls `commit_batch` and `between_batches`.

    `let_go(True)` is called when every reader of the file has to close it, `let_go(False)` when they may open it.
    """

    def __init__(
        self,
        path: Path,
        schemas: Sequence[Schema],
        *,
        durable: bool,
        steady: Callable[[], float],
        floor: Floor | None = None,
        patience: float = 0.0,
        let_go: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Open the file and bring its tables up to date; raises DatabaseInUse, DatabaseDamaged, SchemaTooNew."""
        refuse_old_sqlite()
        self._path = path
        self._durable = durable
        self._steady = steady
        self._floor = floor or Floor()
        self.let_go = let_go
        self._statements = {
            name: (sqlite_text(each.sql), each.returns, each.needs_row) for name, each in by_name(schemas).items()
        }
        self._wal_octets = 0
        self._broken = ""
        self._recovery = _Recovery(path, steady)
        self._lock = Lock(path, patience)
        try:
            self._open_first(schemas)
        except BaseException:
            self._lock.release(self._lock.left)
            raise

    @property
    def unwell(self) -> bool:
        """Tell whether nothing is accepted until `between_batches` has brought the file back."""
        return bool(self._broken)

    def commit_batch(self, units: Sequence[tuple[Step, ...]]) -> list[Outcome]:
        """Commit all units in one transaction; return an outcome for each, in order."""
        if not self._broken and self._checkpoints.failed:
            self._break(self._checkpoints.failed)
        if self._broken:
            return [Unhealthy(f"the database is being checked after: {self._broken}") for _ in units]
        if self._wal_octets > WAL_MAX_OCTETS:
            self._restart_wal()
            if self._wal_octets > WAL_MAX_OCTETS:
                return [NoRoom("the write-ahead log is full") for _ in units]
        try:
            return self._commit(units)
        except apsw.Error as error:
            refused = self._gave_up(error)
            return [type(refused)(str(refused)) for _ in units]

    def between_batches(self) -> None:
        """Do what may take a moment while nobody waits for an answer: restart a long log, recover."""
        if self._broken:
            self._recover()
        elif self._wal_octets > RESTART_OCTETS:
            self._restart_wal()

    def close(self) -> None:
        """Close in order and let another writer have the file."""
        self._recovery.join()
        if self._broken:
            self._lock.release(BROKEN)
            return
        self._checkpoints.stop()
        word = CLOSED
        self._lock.say(OPENED, sync=True)  # SQLite may remove the log now, in order, and a kill fall behind that
        try:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if self._checkpoints.failed:
                word = BROKEN
        except apsw.BusyError:
            pass
        except apsw.Error:
            word = BROKEN
        if word == BROKEN:
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.close(True)
        self._lock.release(word)

    def _open_first(self, schemas: Sequence[Schema]) -> None:
        path, left = self._path, self._lock.left
        refuse_missing_log(path, left)
        check = needs_check(path, left)
        if left == BROKEN and path.exists():
            try:
                fold_log(path)
            except apsw.BusyError:
                pass  # workers that still serve readers; the check below is what can be had
        self._connection = self._open()
        try:
            if check:
                check_file(self._connection, path)
            migrate(self._connection, schemas)
            self._checkpoints = _Checkpoints(path)
        except BaseException:
            self._connection.close(True)
            raise
        self._room = Room(path, self._floor, self._steady)
        self._lock.say(LOGGED if left == LOGGED else OPENED, sync=True)

    def _open(self) -> apsw.Connection:
        connection = open_writing(self._path, durable=self._durable)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.set_wal_hook(self._wal_grew)
        return connection

    def _commit(self, units: Sequence[tuple[Step, ...]]) -> list[Outcome]:
        """Run a batch; apsw.Error leaves nothing of it."""
        short = self._room.short
        outcomes: list[Outcome] = []
        self._connection.execute("BEGIN IMMEDIATE")
        for unit in units:
            if short and sum(weight(params) for _, params in unit) > SMALL_UNIT_OCTETS:
                outcomes.append(NoRoom("the disk is nearly full"))
            else:
                outcomes.append(self._run(unit))
        self._connection.execute("COMMIT")
        self._lock.say(LOGGED)
        if self._wal_octets > CHECKPOINT_OCTETS:
            self._checkpoints.wanted.set()
        return outcomes

    def _run(self, unit: tuple[Step, ...]) -> Outcome:
        """Run one unit inside its savepoint; an error that is not the unit's own leaves the batch."""
        connection = self._connection
        connection.execute("SAVEPOINT unit")
        try:
            rows = self._run_steps(unit)
        except _OF_THE_UNIT as no:
            self._undo_unit(no)
            return no if isinstance(no, Unmet) else Clash(str(no))
        except apsw.Error:
            raise
        except Exception as bug:  # a name or a value that the engine never saw: the others of the batch go on
            self._undo_unit(bug)
            return Unhealthy(f"{type(bug).__name__}: {bug}")
        connection.execute("RELEASE unit")
        return rows

    def _run_steps(self, unit: tuple[Step, ...]) -> tuple[Rows, ...]:
        connection, rows = self._connection, []
        for name, params in unit:
            sql, returns, needs_row = self._statements[name]
            before = connection.total_changes() if needs_row else 0
            found = connection.execute(sql, params).fetchall()
            if returns:
                rows.append(found)
            if needs_row and connection.total_changes() == before:
                raise Unmet(name)
        return tuple(rows)

    def _undo_unit(self, why: Exception) -> None:
        if not self._connection.in_transaction:
            raise apsw.FullError("SQLite has left the transaction") from why
        self._connection.execute("ROLLBACK TO unit")
        self._connection.execute("RELEASE unit")

    def _gave_up(self, error: apsw.Error) -> NotCommitted:
        """End a batch after an error that is not a unit's own; say what its units are answered."""
        fatal = isinstance(error, _FATAL)
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error:
                fatal = True
        if fatal:
            self._break(str(error))
            return Unhealthy(str(error))
        if isinstance(error, apsw.FullError):
            self._room.was_full()
            return NoRoom(str(error))
        return Unhealthy(str(error))

    def _break(self, why: str) -> None:
        """Accept nothing more until the file was checked."""
        self._broken = why
        self._erase_failed()
        self._lock.say(BROKEN, sync=True)
        self._checkpoints.stop()
        self._connection.close(True)
        self._recovery.reset()

    def _erase_failed(self) -> None:
        """Write over the frames of a commit whose sync failed: its units are told no, so it must not come back.

        The log's checksums are a chain; a new commit in the place of the failed one makes its frames void, which
        whoever reads the log from its start would otherwise find in order.
        """
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._connection.execute("UPDATE schema_version SET version = version")
        except apsw.Error:
            pass  # the disk refuses this too: whether the failed units are there is then not known

    def _recover(self) -> None:
        """Take the next step on the way back."""
        recovery = self._recovery
        if recovery.due():
            self.let_go(True)
            recovery.begin()
        if not recovery.succeeded():
            return
        try:
            self._connection = self._open()
            self._checkpoints = _Checkpoints(self._path)
        except (apsw.Error, DatabaseDamaged) as still:
            self._broken = str(still)
            return
        self._wal_octets = 0
        self._broken = ""
        self._lock.say(OPENED, sync=True)
        self.let_go(False)

    def _wal_grew(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_octets = pages * PAGE_OCTETS
        return 0

    def _restart_wal(self) -> None:
        """Make the next commit begin the log anew; where readers prevent it, it is tried again later."""
        self._connection.set_busy_timeout(RESTART_WAIT_MS)
        try:
            left, done = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            if left == done:
                self._wal_octets = 0
        except apsw.BusyError:
            pass
        except apsw.FullError:
            self._room.was_full()
        except apsw.Error as error:
            self._break(str(error))
            return
        self._connection.set_busy_timeout(BUSY_MS)


class _Checkpoints:
    """Copies the log into the database from a thread and connection of its own, off the commit path."""

    def __init__(self, path: Path) -> None:
        self.wanted = threading.Event()
        self.failed = ""
        """What the disk said; the writer accepts nothing more when it sees this."""
        self._ends = False
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("wal_autocheckpoint", 0)
        self._connection.pragma("synchronous", 2)
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the connection."""
        self._ends = True
        self.wanted.set()
        self._thread.join()
        self._connection.close(True)

    def _run(self) -> None:
        while True:
            self.wanted.wait()
            self.wanted.clear()
            if self._ends:
                return
            try:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except (apsw.BusyError, apsw.FullError):
                continue  # the log keeps everything; the next commit asks again
            except apsw.Error as error:
                self.failed = str(error)
                return


class _Recovery:
    """Folds the log and checks the file in a thread, again and again until it succeeds."""

    def __init__(self, path: Path, steady: Callable[[], float]) -> None:
        self._path = path
        self._steady = steady
        self._thread: threading.Thread | None = None
        self._tries = 0
        self._not_before = 0.0
        self._whole = False

    def reset(self) -> None:
        """Forget an earlier recovery."""
        self._tries = 0
        self._not_before = 0.0
        self._whole = False

    def due(self) -> bool:
        """Tell whether a try should begin."""
        return self._thread is None and not self._whole and self._steady() >= self._not_before

    def begin(self) -> None:
        """Begin a try."""
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)
        self._thread.start()

    def succeeded(self) -> bool:
        """Tell whether the file is whole again; plans the next try when one has failed."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread.join()
            self._thread = None
            self._tries = min(self._tries + 1, len(RECOVER_EVERY_S) - 1)
            self._not_before = self._steady() + RECOVER_EVERY_S[self._tries]
        return self._whole

    def join(self) -> None:
        """Wait for the try that runs."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            fold_log(self._path)
        except (apsw.Error, DatabaseDamaged, OSError):
            return
        self._whole = True


def migrate(connection: apsw.Connection, schemas: Sequence[Schema]) -> None:
    """Bring every stage's tables to the newest version, each migration in a transaction of its own."""
    connection.execute(VERSION_TABLE)
    rows = connection.execute("SELECT stage, version FROM schema_version").fetchall()
    for stage, number, _name, text in all_due(schemas, {str(row[0]): int(str(row[1])) for row in rows}):
        with connection:
            for statement in spelled(text, SQLITE_TOKENS):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_version (stage, version) VALUES (?, ?)"
                " ON CONFLICT (stage) DO UPDATE SET version = excluded.version",
                (stage, number),
            )
