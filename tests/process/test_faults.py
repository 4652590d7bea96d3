"""What disks do to a server: power cuts, no room, errors of sync and write, a file that somebody else has locked.

Always under load from the ledger client, and always with the same question at the end: is every acknowledged mail
there, once and whole? The server's data is on a file system of its own in an image. A power cut is the shutdown
that ext4 and xfs have for tests of crashes: nothing reaches the device any more, not even the journal, and what is
found after mounting it again is what had been synced.
"""

import fcntl
import imaplib
import os
import random
import shutil
import smtplib
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw
import pytest

from tests.process.served import until
from tests.process.test_kill import BODIES, DIGESTS, MAILS, Ledger, Server, Strace, lost_or_broken, send
from tests.support.peers import cannot, program

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]
IMAGE_OCTETS: Final = 4 << 30  # sparse; above the floor of free space that a server wants
SHUTDOWN: Final = 0x8004587D  # XFS_IOC_GOINGDOWN, which is EXT4_IOC_SHUTDOWN too
NO_LOG_FLUSH: Final = struct.pack("I", 2)
CUTS: Final = 3
DEEP_CUTS: Final = 20
SESSIONS: Final = 4


class Disk:
    """A file system in an image; `mounted` is where it is."""

    def __init__(self, folder: Path, kind: str) -> None:
        if os.geteuid():
            cannot("only root can mount an image")
        folder.mkdir()
        self._image, self.mounted = folder / "image", folder / "disk"
        with self._image.open("wb") as file:
            file.truncate(IMAGE_OCTETS)
        make = program(f"mkfs.{kind}", f"/usr/sbin/mkfs.{kind}")
        subprocess.run([make, "-q", str(self._image)], check=True)
        self.mounted.mkdir()
        self.mount()

    def mount(self) -> None:
        """Mount it, which plays its journal back."""
        done = subprocess.run(
            ["mount", "-o", "loop", str(self._image), str(self.mounted)], capture_output=True, text=True
        )
        if done.returncode:
            cannot(f"it does not mount an image: {done.stderr.strip()}")

    def unmount(self) -> None:
        """Unmount it when the last process has let it go."""
        until(lambda: subprocess.run(["umount", str(self.mounted)], capture_output=True).returncode == 0, 20, str)

    def cut_power(self) -> None:
        """Let nothing reach the device any more."""
        handle = os.open(self.mounted, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(handle)

    def fill(self, left: int) -> Path:
        """Take all its room but `left` octets, by a file that is returned."""
        filler = self.mounted / "filler"
        with filler.open("wb") as file:
            room = os.statvfs(self.mounted)
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - left)
        return filler


@contextmanager
def disk_in(folder: Path, kind: str = "ext4") -> Iterator[Disk]:
    """Make a disk; it is gone at the end."""
    disk = Disk(folder, kind)
    try:
        yield disk
    finally:
        disk.unmount()
        shutil.rmtree(folder, ignore_errors=True)


class Load:
    """The ledger client, sending until it is told to end."""

    def __init__(self, server: Server, prefix: str) -> None:
        self.ledger = Ledger()
        self._port, self._rcpt, self._prefix = server.port, server.rcpt, prefix
        self._more = threading.Condition()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(at,)) for at in range(SESSIONS)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until `count` mails are acknowledged."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.ledger.acked) >= count, 60)

    def end(self) -> Ledger:
        """End it; return what was sent and answered."""
        self._ends.set()
        for thread in self._threads:
            thread.join(60)
        return self.ledger

    def _run(self, at: int) -> None:
        number = at
        while not self._ends.is_set():
            subject, kind = f"{self._prefix}-{number}", number % MAILS
            number += SESSIONS
            self.ledger.sent[subject] = DIGESTS[kind]
            text = f"From: <ann@sender.example>\r\nSubject: {subject}\r\n\r\n{BODIES[kind]}"
            try:
                with smtplib.SMTP("127.0.0.1", self._port, timeout=20) as client:
                    client.sendmail("ann@sender.example", [self._rcpt], text)
            except (OSError, smtplib.SMTPException):
                if self._ends.wait(0.05):  # a server that is gone refuses thousands of times a second
                    return
                continue
            with self._more:
                self.ledger.acked.add(subject)
                self._more.notify_all()


@contextmanager
def running(disk: Disk) -> Iterator[Server]:
    """Run a server on a disk; what the disk holds at the start is on it for good."""
    server = Server(disk.mounted)
    os.sync()
    try:
        yield server
    finally:
        server.kill_everything()


# --- power ------------------------------------------------------------------------------------------------


@pytest.mark.row("REL-03")
@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.deep)])
def test_no_acknowledged_mail_is_lost_in_a_power_cut(
    kind: str, tmp_path: Path, deep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(11)
    wrong: dict[int, list[str]] = {}
    acked = 0
    cuts = DEEP_CUTS if deep else CUTS
    with disk_in(tmp_path / kind, kind) as disk, running(disk) as server:
        for cut in range(cuts):
            load = Load(server, f"cut{cut}")
            load.wait_for(chance.randrange(1, 80))
            disk.cut_power()
            server.kill_everything()
            ledger = load.end()
            disk.unmount()
            disk.mount()
            server.start()
            breaches = lost_or_broken(ledger, server.read_back(f"cut{cut}"))
            if breaches:
                wrong[cut] = breaches
            acked += len(ledger.acked)
        server.stop()
        assert subprocess.run([*GATEPOST, "verify", str(disk.mounted / "t")], capture_output=True).returncode == 0
    with capsys.disabled():
        print(f"\n{cuts} power cuts on {kind}: {acked} mails acknowledged, {len(wrong)} cuts with a breach")
    assert not wrong


GATEPOST: Final = (sys.executable, "-m", "gatepost")

NO_SYNC: Final = """
int fsync(int handle) { return 0; }
int fdatasync(int handle) { return 0; }
int sync_file_range(int handle, long from, long count, unsigned flags) { return 0; }
"""


def test_the_same_cut_catches_a_server_that_does_not_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, shim = tmp_path / "shim.c", tmp_path / "shim.so"
    source.write_text(NO_SYNC)
    subprocess.run([program("cc"), "-shared", "-fPIC", "-o", str(shim), str(source)], check=True)
    with disk_in(tmp_path / "disk") as disk, running(disk) as server:
        server.stop()
        monkeypatch.setenv("LD_PRELOAD", str(shim))
        server.start()
        load = Load(server, "lie")
        load.wait_for(40)
        disk.cut_power()
        server.kill_everything()
        ledger = load.end()
        disk.unmount()
        disk.mount()
        assert len(ledger.acked) >= 40
        assert rows_in(disk.mounted / "t" / "data" / "mail.db") < len(ledger.acked)


def rows_in(path: Path) -> int:
    """Return how many messages a database has; 0 for one that cannot be read."""
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        count = connection.execute("SELECT COUNT(*) FROM listing").fetchone()
        connection.close()
    except apsw.Error:
        return 0
    assert count is not None
    return int(count[0])


# --- room -------------------------------------------------------------------------------------------------


def answer_to_a_mail(server: Server, kind: int = 1) -> int:
    """Return the code that a mail gets."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        try:
            client.sendmail("ann@sender.example", [server.rcpt], f"From: <a@b.example>\r\n\r\n{BODIES[kind]}")
        except smtplib.SMTPRecipientsRefused as refused:
            return next(iter(refused.recipients.values()))[0]
        except smtplib.SMTPResponseException as refused:
            return refused.smtp_code
    return 250


@pytest.mark.row("REL-06")
@pytest.mark.parametrize("left", [512 << 20, 0])
def test_on_a_full_disk_mail_is_put_off_and_taken_again_when_there_is_room(left: int, tmp_path: Path) -> None:
    with disk_in(tmp_path / "disk") as disk, running(disk) as server:
        before = send(server.port, server.rcpt, "before")
        assert len(before.acked) == MAILS
        filler = disk.fill(left)
        until(lambda: answer_to_a_mail(server) == 452, 10, server._last_words)
        during = send(server.port, server.rcpt, "during")
        assert not during.acked
        assert answer_to_a_mail(server, 0) == 452  # a large one, which goes to a file
        account = server.facts["accounts"][0]
        with imaplib.IMAP4("127.0.0.1", server.facts["ports"]["imap"]) as client:
            client.login(account["address"], account["password"])
            client.select("INBOX")
            assert client.fetch("1", "(BODY[])")[0] == "OK"
        filler.unlink()
        until(lambda: answer_to_a_mail(server) == 250, 20, server._last_words)
        after = send(server.port, server.rcpt, "after")
        assert len(after.acked) == MAILS
        for prefix, ledger in (("before", before), ("during", during), ("after", after)):
            assert lost_or_broken(ledger, server.read_back(prefix)) == []


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.row("REL-08")
@pytest.mark.peer("strace")
@pytest.mark.parametrize("call", ["fdatasync", "pwrite64"])
@pytest.mark.parametrize("when", [1, 4])
def test_an_error_of_the_disk_is_no_success_and_later_mail_does_not_build_on_it(
    server: Server, call: str, when: int, tmp_path: Path
) -> None:
    prefix = f"{call}{when}"
    with Strace(server.pids("keeper mail"), call, tmp_path / "log", f"{call}:error=EIO:when={when}"):
        ledger = send(server.port, server.rcpt, prefix)
    assert len(ledger.acked) < MAILS, "the error disturbed nobody: nothing was shown"
    until(lambda: answer_to_a_mail(server) == 250, 60, server._last_words)
    assert lost_or_broken(ledger, server.read_back(prefix)) == []


@pytest.mark.row("REL-08")
@pytest.mark.peer("strace")
@pytest.mark.parametrize("call", ["fsync", "rename", "openat"])
def test_a_large_body_that_could_not_be_stored_is_put_off(server: Server, call: str, tmp_path: Path) -> None:
    prefix = f"body-{call}"
    errors = f"{call}:error={'ENOSPC' if call == 'openat' else 'EIO'}:when=1"
    with Strace(server.pids("worker"), call, tmp_path / "log", errors):
        ledger = send(server.port, server.rcpt, prefix)
    assert len(ledger.acked) < MAILS
    assert answer_to_a_mail(server, 0) == 250
    assert lost_or_broken(ledger, server.read_back(prefix)) == []


@pytest.mark.row("REL-13")
def test_a_database_that_another_program_has_locked_puts_mail_off_and_holds_up_nothing_else(server: Server) -> None:
    path = Path(server.facts["data_dir"]) / "data" / "mail.db"
    if not path.exists():
        path = next(Path(server.facts["data_dir"]).rglob("mail.db"))
    thief = apsw.Connection(str(path))
    thief.execute("BEGIN IMMEDIATE")
    codes: list[int] = []
    sender = threading.Thread(target=lambda: codes.append(answer_to_a_mail(server)))
    sender.start()
    try:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=2) as client:
            while sender.is_alive():
                assert client.noop()[0] == 250
                sender.join(0.2)
        assert codes == [451]
    finally:
        thief.execute("ROLLBACK")
        thief.close()
        sender.join()
    until(lambda: answer_to_a_mail(server) == 250, 20, server._last_words)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose disk fails again and again."""
    server = Server(tmp_path_factory.mktemp("faults"))
    yield server
    server.stop()
