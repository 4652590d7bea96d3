"""The one writer of a SQLite file: group commit, a savepoint a unit, and the rule about errors.

    BEGIN IMMEDIATE
      for each unit that waits:  SAVEPOINT; its steps; RELEASE
                                 a constraint or an unmet precondition undoes this unit alone
    COMMIT                       one fsync for all of them; only then is anybody answered

Any other error, or a connection that has left its transaction (on ENOSPC SQLite rolls all of it back and the
savepoints vanish), ends the batch: nothing more of it is executed, ROLLBACK if one is still open, and every unit
of the batch is answered NoRoom or Unhealthy. After an I/O error the file is reopened and checked before anything
else is accepted: SQLite itself would carry on as if nothing had been lost.
"""

import fcntl
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from gatepost.db.migrate import SQLITE_TOKENS, VERSION_TABLE, by_name, due, spelled, sqlite_text
from gatepost.db.unit import Clash, NoRoom, NotCommitted, Rows, Schema, Unhealthy, Unmet, Value

SAFE_SQLITE: Final = (3, 51, 3)  # 3.7.0 to 3.51.2 can corrupt a database when the WAL is reset
PAGE_OCTETS: Final = 8192
CHECKPOINT_OCTETS: Final = 4 << 20
RESTART_OCTETS: Final = 64 << 20
RESTART_WAIT_MS: Final = 20
WAL_MAX_OCTETS: Final = 512 << 20
BALLAST_OCTETS: Final = 8 << 20
SMALL_UNIT_OCTETS: Final = 4096  # what still passes on a disk that is nearly full: flags, expunges, results
BUSY_MS: Final = 5000

Step = tuple[str, Mapping[str, Value]]
Outcome = tuple[Rows, ...] | NotCommitted


class DatabaseInUse(Exception):
    """Another process writes this file."""


class DatabaseDamaged(Exception):
    """The file did not pass its check; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Floor:
    """How much of the disk is never used: below `octets` free, units that add data are answered NoRoom."""

    octets: int = 2 * WAL_MAX_OCTETS


class Writer:
    """Owns the writing connection. Not thread-safe: one thread calls `commit_batch`."""

    def __init__(
        self,
        path: Path,
        schemas: Sequence[Schema],
        *,
        durable: bool,
        steady: Callable[[], float],
        floor: Floor | None = None,
    ) -> None:
        _refuse_old_sqlite()
        self._path = path
        self._durable = durable
        self._steady = steady
        self._floor = (floor or Floor()).octets
        self._statements = {
            name: (sqlite_text(each.sql), each.returns, each.needs_row) for name, each in by_name(schemas).items()
        }
        self._lock = _lock(path)
        self._free_checked = -1.0
        self._short = False
        self._wal_octets = 0
        self._broken = ""
        self._connection = self._open(check=_unclean(path))
        migrate(self._connection, schemas)
        self._checkpoints = _Checkpoints(path)
        self._make_ballast()

    def commit_batch(self, units: Sequence[tuple[Step, ...]]) -> list[Outcome]:
        """Commit all units in one transaction; return an outcome for each, in order."""
        refused = self._refusal()
        if refused is not None and not isinstance(refused, NoRoom):
            return [refused] * len(units)
        outcomes: list[Outcome] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for unit in units:
                too_much = refused is not None and weight(unit) > SMALL_UNIT_OCTETS
                outcomes.append(refused if too_much and refused is not None else self._run(unit))
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            return [self._gave_up(error)] * len(units)
        if self._wal_octets > CHECKPOINT_OCTETS:
            self._checkpoints.wanted.set()
        if self._wal_octets > RESTART_OCTETS:
            self._restart_wal()
        return outcomes

    def close(self) -> None:
        """Checkpoint, close, and let another writer have the file."""
        self._checkpoints.stop()
        self._connection.close()
        os.close(self._lock)

    def _run(self, unit: tuple[Step, ...]) -> Outcome:
        """Run one unit inside its savepoint; apsw.Error other than a constraint leaves the batch."""
        connection, rows = self._connection, []
        connection.execute("SAVEPOINT unit")
        try:
            for name, params in unit:
                sql, returns, needs_row = self._statements[name]
                before = connection.total_changes() if needs_row else 0
                found = connection.execute(sql, params).fetchall()
                if returns:
                    rows.append(found)
                if needs_row and connection.total_changes() == before:
                    raise Unmet(name)
        except (apsw.ConstraintError, Unmet, KeyError) as no:
            if not connection.in_transaction:
                raise apsw.FullError("the transaction is gone") from no
            connection.execute("ROLLBACK TO unit")
            connection.execute("RELEASE unit")
            return no if isinstance(no, Unmet) else Clash(str(no))
        connection.execute("RELEASE unit")
        return tuple(rows)

    def _gave_up(self, error: apsw.Error) -> NotCommitted:
        """End a batch after an error that is not a unit's own; say what its units are answered."""
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except apsw.Error:
                self._broken = str(error)
        if isinstance(error, apsw.FullError):
            self._short = True
            self._free_checked = self._steady()
            self._drop_ballast()
            return NoRoom(str(error))
        if not isinstance(error, apsw.BusyError):
            self._broken = str(error)
        return Unhealthy(str(error))

    def _refusal(self) -> NotCommitted | None:
        """Say why nothing (Unhealthy) or only small units (NoRoom) are accepted now."""
        if self._broken:
            try:
                self._connection.close(True)
                self._connection = self._open(check=True)
            except (apsw.Error, DatabaseDamaged) as still:
                return Unhealthy(f"after {self._broken}: {still}")
            self._broken = ""
        if self._wal_octets > WAL_MAX_OCTETS:
            self._restart_wal()
            if self._wal_octets > WAL_MAX_OCTETS:
                return NoRoom("the write-ahead log is full")
        if self._steady() - self._free_checked >= 1:
            self._free_checked = self._steady()
            disk = os.statvfs(self._path.parent)
            self._short = disk.f_bavail * disk.f_frsize < self._floor
            if not self._short:
                self._make_ballast()
        return NoRoom("the disk is nearly full") if self._short else None

    def _open(self, *, check: bool) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), statementcachesize=256)
        connection.set_busy_timeout(BUSY_MS)
        connection.pragma("page_size", PAGE_OCTETS)
        if connection.pragma("journal_mode", "wal") != "wal":
            raise DatabaseDamaged(
                f"{self._path} cannot have a write-ahead log here: is it on a network file system?"
            )
        wanted = 2 if self._durable else 1  # FULL: a power cut loses nothing that was acknowledged
        connection.pragma("synchronous", wanted)
        if connection.pragma("synchronous") != wanted:
            raise DatabaseDamaged("SQLite did not take the synchronous setting")
        connection.pragma("cache_size", -16384)
        connection.pragma("temp_store", 2)
        connection.pragma("foreign_keys", 1)
        connection.pragma("wal_autocheckpoint", 0)
        connection.set_wal_hook(self._wal_grew)
        if check:
            check_file(connection, self._path)
        return connection

    def _wal_grew(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self._wal_octets = pages * PAGE_OCTETS
        return 0

    def _restart_wal(self) -> None:
        """Make the next commit begin the log anew; where readers prevent it, the next batch tries again."""
        self._connection.set_busy_timeout(RESTART_WAIT_MS)
        try:
            left, done = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            if left == done:
                self._wal_octets = 0
        except apsw.BusyError:
            pass
        finally:
            self._connection.set_busy_timeout(BUSY_MS)

    @property
    def _ballast(self) -> Path:
        return self._path.with_suffix(".ballast")

    def _make_ballast(self) -> None:
        """Hold octets of the disk that can be let go: on a full disk even a DELETE needs room."""
        if not self._ballast.exists():
            try:
                with self._ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, BALLAST_OCTETS)
            except OSError:
                self._drop_ballast()

    def _drop_ballast(self) -> None:
        self._ballast.unlink(missing_ok=True)


class _Checkpoints:
    """Copies the log into the database from a thread and connection of its own, off the commit path."""

    def __init__(self, path: Path) -> None:
        self.wanted = threading.Event()
        self._ends = False
        self._connection = apsw.Connection(str(path))
        self._connection.pragma("wal_autocheckpoint", 0)
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self.wanted.wait()
            self.wanted.clear()
            if self._ends:
                return
            try:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error:
                continue  # the writer meets the same error where it can answer for it

    def stop(self) -> None:
        self._ends = True
        self.wanted.set()
        self._thread.join()
        self._connection.close()


def migrate(connection: apsw.Connection, schemas: Sequence[Schema]) -> None:
    """Bring every stage's tables to the newest version, each migration in a transaction of its own."""
    connection.execute(VERSION_TABLE)
    rows = connection.execute("SELECT stage, version FROM schema_version").fetchall()
    versions = {str(stage): int(str(version)) for stage, version in rows}
    for schema in schemas:
        for number, _name, text in due(schema, versions.get(schema.stage, 0)):
            with connection:
                for statement in spelled(text, SQLITE_TOKENS):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO schema_version (stage, version) VALUES (?, ?)"
                    " ON CONFLICT (stage) DO UPDATE SET version = excluded.version",
                    (schema.stage, number),
                )


def check_file(connection: apsw.Connection, path: Path) -> None:
    """Run SQLite's quick check; DatabaseDamaged says what it found and what to do."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [str(error)]
    if found != ["ok"]:
        raise DatabaseDamaged(
            f"{path} is damaged ({'; '.join(found)}). Nothing was changed. Restore the last backup with "
            "`gatepost restore`, or keep this file and ask for help before you try anything else."
        )


def weight(unit: Sequence[Step]) -> int:
    """Return about how many octets a unit adds."""
    return sum(
        len(value) if isinstance(value, bytes | str) else 8 for _, params in unit for value in params.values()
    )


def _refuse_old_sqlite() -> None:
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    if version < SAFE_SQLITE:
        raise DatabaseDamaged(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a database when it resets its log; "
            "3.51.3 or later is needed: reinstall apsw from a wheel, which brings its own"
        )


def _unclean(path: Path) -> bool:
    """Tell whether the last writer did not close the file: a clean close removes the log."""
    log = path.with_name(path.name + "-wal")
    return path.exists() and log.exists() and log.stat().st_size > 0


def _lock(path: Path) -> int:
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DatabaseInUse(f"{path} is being written by another process") from None
    return handle
