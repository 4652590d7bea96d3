"""The writer of a SQLite file: what a batch does to its units, and which files are not opened at all."""

import os
import threading
from pathlib import Path

import apsw
import pytest

from gatepost.db import files, writer
from gatepost.db.files import BROKEN, CLOSED, LOGGED, DatabaseDamaged, DatabaseInUse, refuse_old_sqlite
from gatepost.db.room import Floor, Room
from gatepost.db.unit import Clash, NoRoom, Schema, Step, Unhealthy, Unmet
from gatepost.db.writer import Writer
from tests.db.world import ALL, IDS, RENAME, WRONG, add, named, open_writer

LOCK = "mail.lock"


def ids(folder: Path) -> list[int]:
    """What a fresh reader finds."""
    connection = apsw.Connection(str(folder / "mail.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [int(str(row[0])) for row in connection.execute(IDS.sql)]
    finally:
        connection.close()


def test_commits_are_durable_and_read_back_as_such(tmp_path: Path) -> None:
    for durable, level in ((True, 2), (False, 1)):
        connection = files.open_writing(tmp_path / f"{durable}.db", durable=durable)
        assert connection.pragma("synchronous") == level
        assert connection.pragma("journal_mode") == "wal"
        connection.close()


def test_a_bad_unit_in_a_batch_harms_no_other(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    outcomes = own.commit_batch(
        [
            named(add(1)),
            named(add(2), add(1)),  # a clash
            named(add(3), Step(RENAME, {"id": 99, "name": "y"})),  # unmet
            (("t.add", {"id": 4, "name": ["no value"], "content": None}),),  # type: ignore[dict-item]  # a bug
            (("t.unknown", {}),),  # a worker of another version
            (("t.add", {"id": 5, "name": "a parameter is missing"}),),
            (("t.add", {"id": "text", "name": "not a number", "content": None}),),
            named(add(6)),
        ]
    )
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [tuple, Clash, Unmet, Unhealthy, Unhealthy, Unhealthy, Clash, tuple]
    own.close()
    assert ids(tmp_path) == [1, 6]


def test_an_error_that_is_not_a_units_own_ends_the_whole_batch(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    outcomes = own.commit_batch([named(add(1)), named(Step(WRONG, {"id": 1})), named(add(2))])
    assert [type(outcome) for outcome in outcomes] == [Unhealthy] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3  # each waiter raises an exception of its own
    assert not own.unwell
    assert own.commit_batch([named(add(3))]) == [()]
    own.close()
    assert ids(tmp_path) == [3]


def test_a_batch_whose_savepoints_vanished_is_given_up(tmp_path: Path) -> None:
    """On ENOSPC SQLite rolls the whole transaction back by itself; nothing of the batch may run on its own."""
    vanish = "CREATE TRIGGER vanish BEFORE UPDATE ON thing BEGIN SELECT RAISE(ROLLBACK, 'gone'); END"
    own = open_writer(tmp_path)
    own.commit_batch([named(add(1))])
    own._connection.execute(vanish)
    rename = Step(RENAME, {"id": 1, "name": "y"})
    outcomes = own.commit_batch([named(add(2)), named(rename), named(add(3))])
    assert [type(outcome) for outcome in outcomes] == [NoRoom] * 3
    own.close()
    assert ids(tmp_path) == [1]


@pytest.mark.row("STO-02")
@pytest.mark.parametrize("version", ["3.40.1", "3.44.5", "3.51.2"])
def test_a_sqlite_that_can_corrupt_its_log_is_refused(version: str) -> None:
    with pytest.raises(DatabaseDamaged, match=r"3\.51\.3 or later"):
        refuse_old_sqlite(version)


@pytest.mark.row("STO-02")
def test_the_sqlite_that_we_bring_is_not_refused(tmp_path: Path) -> None:
    refuse_old_sqlite()
    refuse_old_sqlite("3.51.3")
    refuse_old_sqlite("4.0.0")


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    with pytest.raises(DatabaseInUse):
        open_writer(tmp_path)
    own.close()
    open_writer(tmp_path).close()


@pytest.mark.row("STO-04")
def test_a_damaged_page_is_refused_with_a_remedy(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    own.commit_batch([named(add(key, content=os.urandom(3000))) for key in range(1, 200)])
    own.close()
    path = tmp_path / "mail.db"
    octets = bytearray(path.read_bytes())
    octets[20 * files.PAGE_OCTETS : 20 * files.PAGE_OCTETS + 16] = b"\xff" * 16
    path.write_bytes(octets)
    with pytest.raises(DatabaseDamaged, match=r"mail\.db is damaged .*`gatepost restore`"):
        open_writer(tmp_path)
    assert path.read_bytes() == octets


@pytest.mark.row("STO-04")
def test_something_else_than_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mail.db").write_bytes(b"From ann@example.org\r\n" * 1000)
    with pytest.raises(DatabaseDamaged, match=r"mail\.db is damaged"):
        open_writer(tmp_path)


def leave_without_closing(own: Writer) -> None:
    """What kill -9 leaves: the log as it is, the lock file's word."""
    own._checkpoints.stop()
    own._connection.close(True)  # NO_CKPT_ON_CLOSE: the log stays
    os.close(own._lock._handle)


@pytest.mark.row("STO-04")
def test_a_log_that_was_deleted_is_missed(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    own.commit_batch([named(add(1))])
    leave_without_closing(own)
    assert (tmp_path / LOCK).read_bytes() == LOGGED
    log = tmp_path / "mail.db-wal"
    kept = log.read_bytes()
    log.unlink()
    with pytest.raises(DatabaseDamaged, match=r"mail\.db-wal is missing"):
        open_writer(tmp_path)
    log.write_bytes(kept)
    open_writer(tmp_path).close()
    assert ids(tmp_path) == [1]
    assert (tmp_path / LOCK).read_bytes() == CLOSED


def test_a_kill_between_the_removal_of_the_log_and_the_last_word_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the kill sweep: SQLite had folded the log in and removed it, and the next start missed it."""
    own = open_writer(tmp_path)
    own.commit_batch([named(add(1))])
    monkeypatch.setattr(files.Lock, "release", lambda lock, word: os.close(lock._handle))  # killed before its word
    own.close()
    monkeypatch.undo()
    assert not (tmp_path / "mail.db-wal").exists()
    again = open_writer(tmp_path)
    again.commit_batch([named(add(2))])
    again.close()
    assert ids(tmp_path) == [1, 2]


def test_the_lock_file_can_be_removed_to_open_without_the_log(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    own.commit_batch([named(add(1))])
    leave_without_closing(own)
    connection = apsw.Connection(str(tmp_path / "mail.db"))  # another program folds the log in
    connection.execute(ALL.sql).fetchall()
    connection.close()
    with pytest.raises(DatabaseDamaged, match=r"remove .*mail\.lock"):
        open_writer(tmp_path)
    (tmp_path / LOCK).unlink()
    open_writer(tmp_path).close()
    assert ids(tmp_path) == [1]


def test_a_file_left_broken_is_folded_before_it_is_served(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    own.commit_batch([named(add(1))])
    leave_without_closing(own)
    (tmp_path / LOCK).write_bytes(BROKEN)
    again = open_writer(tmp_path)
    assert files.log_octets(tmp_path / "mail.db") == 0
    again.close()
    assert ids(tmp_path) == [1]


def test_below_the_floor_only_small_units_pass(tmp_path: Path) -> None:
    full = 1 << 60
    own = open_writer(tmp_path, floor=full)
    outcomes = own.commit_batch([named(add(1, content=b"x" * 2000)), named(add(2, content=b"x" * 100))])
    assert [type(outcome) for outcome in outcomes] == [NoRoom, tuple]
    assert not (tmp_path / "mail.ballast").exists()
    own.close()


def test_a_disk_that_does_not_say_what_is_free_takes_no_mail(tmp_path: Path) -> None:
    steady = [0.0]
    room = Room(tmp_path / "mail.db", Floor(0), lambda: steady[0])
    found = [room.short]
    for folder in (tmp_path / "not there", tmp_path):
        room._folder = folder
        steady[0] += 2.0
        found.append(room.short)
    assert found == [False, True, False]


def test_the_ballast_is_there_while_there_is_room(tmp_path: Path) -> None:
    own = open_writer(tmp_path)
    assert (tmp_path / "mail.ballast").stat().st_size == 8 << 20
    own.close()


def test_a_log_that_readers_hold_back_ends_in_no_room_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RESTART_OCTETS", 256 << 10)
    monkeypatch.setattr(writer, "WAL_MAX_OCTETS", 1 << 20)
    own = open_writer(tmp_path)
    reader = files.open_reading(tmp_path / "mail.db")
    reader.execute("BEGIN")
    reader.execute(ALL.sql).fetchall()
    answers = []
    for key in range(1, 40):
        answers += own.commit_batch([named(add(key, content=os.urandom(100_000)))])
        own.between_batches()
    assert isinstance(answers[-1], NoRoom)
    assert files.log_octets(tmp_path / "mail.db") < 2 << 20
    reader.execute("COMMIT")
    assert own.commit_batch([named(add(100))]) == [()]
    reader.close()
    own.close()


def test_a_long_log_is_begun_anew_between_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_OCTETS", 1 << 40)
    monkeypatch.setattr(writer, "RESTART_OCTETS", 256 << 10)
    own = open_writer(tmp_path)
    for key in range(1, 60):
        assert own.commit_batch([named(add(key, content=os.urandom(20_000)))]) == [()]
        own.between_batches()
    assert files.log_octets(tmp_path / "mail.db") < 600 << 10
    own.close()
    assert len(ids(tmp_path)) == 59


def test_a_small_log_is_copied_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_OCTETS", 64 << 10)
    own = open_writer(tmp_path)
    longest = 0
    for key in range(1, 1000):
        assert own.commit_batch([named(add(key, content=os.urandom(8_000)))]) == [()]
        if own._wal_octets < longest:  # begun anew, though the writer itself copied nothing
            break
        longest = own._wal_octets
        if own._checkpoints.wanted.is_set():
            threading.Event().wait(0.005)  # the disk's turn
    else:
        pytest.fail("the log only grew")
    own.close()


def test_a_commit_copies_nothing_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT_OCTETS", 64 << 10)
    own = open_writer(tmp_path)
    assert own._connection.pragma("wal_autocheckpoint") == 0
    size = (tmp_path / "mail.db").stat().st_size
    own._checkpoints._ends = True  # as if the disk took for ever
    own._checkpoints.wanted.set()
    own._checkpoints._thread.join()
    for key in range(1, 60):
        assert own.commit_batch([named(add(key, content=os.urandom(8_000)))]) == [()]
        own.between_batches()
    assert (tmp_path / "mail.db").stat().st_size == size
    assert files.log_octets(tmp_path / "mail.db") > 59 * 8_000
    own.close()
    assert len(ids(tmp_path)) == 59


def test_an_empty_schema_is_a_database_too(tmp_path: Path) -> None:
    open_writer(tmp_path, Schema("none", (), ())).close()
