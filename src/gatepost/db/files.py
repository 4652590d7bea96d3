"""The file of a database: who may write it, how it was left, how it is opened, whether it is sound.

Beside `mail.db` stands `mail.lock`. Whoever writes the database holds a lock on it; its content tells the next
one how the last one left:

    (nothing)   closed in order
    open        opened, nothing written yet
    log         committed units may be in the write-ahead log alone
    broken      the disk refused a write or a sync

After `log` a missing write-ahead log means missing mail: the database is not opened without it. After anything
but an orderly close the file is checked first, and so it is whenever that takes no time.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

import apsw

SAFE_SQLITE: Final = (3, 51, 3)
"""3.7.0 to 3.51.2 can corrupt a database when its log is reset (sqlite.org/wal.html#walresetbug)."""

PAGE_OCTETS: Final = 8192
BUSY_MS: Final = 5000
CHECK_ALWAYS_OCTETS: Final = 64 << 20  # a quick check reads 1.5 GB a second here
LET_GO_MS: Final = 5000

CLOSED: Final = b""
OPENED: Final = b"open"
LOGGED: Final = b"log"
BROKEN: Final = b"broken"


class DatabaseInUse(Exception):
    """Another process writes this file."""


class DatabaseDamaged(Exception):
    """The file did not pass its check; nothing was changed."""


class Lock:
    """Holds `NAME.lock`; at most one process has it."""

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        """Take it, waiting `patience` seconds at most; raises DatabaseInUse."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(path.with_suffix(".lock"), flags, 0o600)
        pauses = int(patience / 0.02)
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if pauses <= 0:
                    os.close(self._handle)
                    raise DatabaseInUse(f"{path} is being written by another process") from None
            pauses -= 1
            time.sleep(0.02)
        self.left = os.pread(self._handle, 16, 0)
        """How the last writer left."""
        self._says = self.left

    def say(self, word: bytes, *, sync: bool = False) -> None:
        """Write how it would be left now; `sync` where a power cut must not forget it."""
        if word != self._says:
            self._says = word
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, word, 0)
            if sync:
                os.fsync(self._handle)

    def release(self, word: bytes) -> None:
        """Let another process have it."""
        self.say(word)
        os.close(self._handle)


def in_use(path: Path) -> bool:
    """Tell whether a process writes the file now."""
    try:
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def refuse_old_sqlite(version: str | None = None) -> None:
    """Raise DatabaseDamaged where this SQLite could damage a file."""
    version = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")[:3]) < SAFE_SQLITE:
        raise DatabaseDamaged(
            f"SQLite {version} can corrupt a database when it resets its log; "
            "3.51.3 or later is needed: reinstall apsw from a wheel, which brings its own"
        )


def refuse_missing_log(path: Path, left: bytes) -> None:
    """Raise DatabaseDamaged where the last writer left mail in a log that is gone.

    An empty log is no such sign: the word is written before the first commit, and a kill may fall in between.
    """
    if left == LOGGED and not path.with_name(path.name + "-wal").exists():
        raise DatabaseDamaged(
            f"{path}-wal is missing, and the last gatepost did not close {path.name} in order: mail that "
            "was acknowledged may be in it alone. Put the file back, or restore a backup. If another program has "
            f"opened the database since (it then folds the log in), remove {path.with_suffix('.lock')} and start."
        )


def log_octets(path: Path) -> int:
    """Return the size of a database's write-ahead log."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def needs_check(path: Path, left: bytes) -> bool:
    """Tell whether a file is checked before it is served."""
    if not path.exists():
        return False
    return left != CLOSED or log_octets(path) > 0 or path.stat().st_size <= CHECK_ALWAYS_OCTETS


def open_writing(path: Path, *, durable: bool) -> apsw.Connection:
    """Open a database for writing, with every setting that a promise rests on read back."""
    connection = apsw.Connection(str(path), statementcachesize=256)
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.pragma("page_size", PAGE_OCTETS)
        if connection.pragma("journal_mode", "wal") != "wal":
            raise DatabaseDamaged(f"{path} cannot have a write-ahead log here: is it on a network file system?")
        wanted = 2 if durable else 1  # FULL: a power cut loses nothing that was acknowledged
        connection.pragma("synchronous", wanted)
        if connection.pragma("synchronous") != wanted:
            raise DatabaseDamaged("SQLite did not take the synchronous setting")
        connection.pragma("cache_size", -16384)
        connection.pragma("temp_store", 2)
        connection.pragma("foreign_keys", 1)
        connection.pragma("wal_autocheckpoint", 0)
    except (apsw.NotADBError, apsw.CorruptError) as wrong:
        connection.close(True)
        raise damaged(path, str(wrong)) from wrong
    except BaseException:
        connection.close(True)
        raise
    return connection


def open_reading(path: Path) -> apsw.Connection:
    """Open a database for reading. No mmap: a bad sector would be SIGBUS, not an error."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY, statementcachesize=256)
    connection.set_busy_timeout(50)
    connection.pragma("query_only", 1)
    connection.pragma("cache_size", -8192)
    return connection


def check_file(connection: apsw.Connection, path: Path) -> None:
    """Run SQLite's quick check; DatabaseDamaged says what it found and what to do."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        found = [str(error)]
    if found != ["ok"]:
        raise damaged(path, "; ".join(found))


def fold_log(path: Path) -> None:
    """Copy the whole log into the database again, with nobody else there, and check the result.

    After a failed sync the kernel forgets which pages it did not write, and SQLite believes them written. Opened
    exclusively, SQLite forgets what it believed: it reads the log from its start and copies all of it.
    Raises apsw.BusyError where another process still has the file open, DatabaseDamaged where it is damaged.
    """
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(LET_GO_MS)
        connection.pragma("locking_mode", "exclusive")
        connection.pragma("synchronous", 2)
        connection.pragma("wal_autocheckpoint", 0)
        check_file(connection, path)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    finally:
        connection.close(True)


def damaged(path: Path, found: str) -> DatabaseDamaged:
    """Say what is wrong with a file, and what to do."""
    return DatabaseDamaged(
        f"{path} is damaged ({found}). Nothing was changed. Restore the last backup with `gatepost restore`, "
        "or keep this file and ask for help before you try anything else."
    )
