"""What disks do to the way out: accept, queue, relay, while power fails, room ends, syncs are slow or fail.

The ledger, the next hop and the checker of test_kill_relay.py; the disk in an image of test_faults.py. At the end
of each: what was answered 250 is at the next hop, whole, and twice only where nobody could know (RFC 1047) and the
log says so.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from tests.process.served import until
from tests.process.test_faults import Disk, disk_in
from tests.process.test_kill import Strace
from tests.process.test_kill_relay import Relaying, Sent, arrived, breaches, send

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]
CUTS = 2
DEEP_CUTS = 20


class Load:
    """The ledger client, sending one round of mails after the other until it is told to end."""

    def __init__(self, server: Relaying, prefix: str) -> None:
        self.ledger = Sent()
        self._server, self._prefix = server, prefix
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for_arrivals(self, count: int) -> None:
        """Wait until the next hop has taken `count` mails of this load."""
        taken = self._server.hop.taken

        def arrived_here() -> bool:
            return sum(each[0].startswith(self._prefix) for each in taken) >= count

        until(arrived_here, 60, lambda: str(len(taken)))

    def end(self) -> Sent:
        """End it; return what was sent and answered."""
        self._ends.set()
        self._thread.join(120)
        return self.ledger

    def _run(self) -> None:
        turn = 0
        while not self._ends.is_set():
            part = send(self._server.port, f"{self._prefix}-{turn}")
            self.ledger.sent |= part.sent
            self.ledger.acked |= part.acked
            turn += 1
            if not part.acked and self._ends.wait(0.05):  # a server that is gone refuses at once
                return


@contextmanager
def relaying(folder: Path) -> Iterator[Relaying]:
    """Run a server with its next hop on data in `folder`."""
    server = Relaying(folder)
    os.sync()  # its configuration is not what is put to the test
    try:
        yield server
    finally:
        server.hop.shutdown()
        server.hop.server_close()
        server.kill_everything()


def judge(server: Relaying, ledger: Sent, prefix: str) -> list[str]:
    """Wait until the next hop has all that was acknowledged; return the breaches."""
    arrived(server, ledger)
    taken = [each for each in server.hop.taken if each[0].startswith(prefix)]
    return breaches(ledger, taken, server.said_doubtful())


def answers_after_a_cut(disk: Disk, server: Relaying, cut: int, after: int) -> tuple[int, list[str]]:
    """Cut the power under load when `after` mails have left; return how many were acknowledged, and breaches."""
    load = Load(server, f"cut{cut}")
    load.wait_for_arrivals(after)
    disk.cut_power()
    server.kill_everything()
    ledger = load.end()
    disk.unmount()
    disk.mount()
    server.start()
    return len(ledger.acked), judge(server, ledger, f"cut{cut}")


@pytest.mark.row("REL-03")
@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.deep)])
def test_no_acknowledged_mail_is_lost_on_its_way_out_in_a_power_cut(
    kind: str, tmp_path: Path, deep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(13)
    acked, wrong = 0, []
    cuts = DEEP_CUTS if deep else CUTS
    with disk_in(tmp_path / kind, kind) as disk, relaying(disk.mounted) as server:
        for cut in range(cuts):
            count, found = answers_after_a_cut(disk, server, cut, chance.randrange(1, 60))
            acked += count
            wrong += found
    with capsys.disabled():
        print(f"\n{cuts} power cuts with a next hop on {kind}: {acked} mails acknowledged, {len(wrong)} breaches")
    assert wrong == []
    assert acked > cuts


@pytest.mark.row("REL-06")
def test_a_disk_that_is_full_while_mail_leaves_loses_none_and_sends_none_again(tmp_path: Path) -> None:
    with disk_in(tmp_path / "disk") as disk, relaying(disk.mounted) as server:
        before = send(server.port, "before")
        assert len(before.acked) == len(before.sent)
        arrived(server, before)
        filler = disk.fill(0)
        during = send(server.port, "during")
        filler.unlink()
        until(lambda: len(send(server.port, "after").acked) > 0, 30, server._last_words)
        for prefix, ledger in (("before", before), ("during", during)):
            assert judge(server, ledger, prefix) == []


def test_a_server_that_is_told_to_end_under_load_ends_and_what_it_took_arrives(tmp_path: Path) -> None:
    with relaying(tmp_path) as server:
        load = Load(server, "term")
        load.wait_for_arrivals(20)
        supervisor = server._supervisor
        assert supervisor is not None
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(40) == 0
        ledger = load.end()
        server.start()
        assert judge(server, ledger, "term") == []
        assert server.said_doubtful() == set(), "nothing was cut off: nothing may be in doubt"


@pytest.mark.row("REL-13")
def test_a_database_that_is_locked_while_mail_leaves_only_delays_it(tmp_path: Path) -> None:
    with relaying(tmp_path) as server:
        load = Load(server, "lock")
        load.wait_for_arrivals(5)
        thief = apsw.Connection(str(tmp_path / "data" / "mail.db"))
        _soon(lambda: thief.execute("BEGIN IMMEDIATE"))
        time.sleep(1)  # what is shown is that a second of it harms nobody
        thief.execute("ROLLBACK")
        thief.close()
        load.wait_for_arrivals(len(server.hop.taken) + 5)
        assert judge(server, load.end(), "lock") == []


@pytest.mark.peer("strace")
def test_a_disk_whose_syncs_are_slow_only_slows_mail_down(tmp_path: Path) -> None:
    with relaying(tmp_path) as server:
        slow = "fdatasync:delay_exit=30000"
        with Strace(server.pids("keeper mail"), "fdatasync", tmp_path / "log", slow):
            ledger = send(server.port, "slow")
            assert len(ledger.acked) == len(ledger.sent)
            assert judge(server, ledger, "slow") == []


@pytest.mark.row("REL-08")
@pytest.mark.peer("strace")
@pytest.mark.parametrize("when", [1, pytest.param(3, marks=pytest.mark.deep)])
def test_an_error_of_the_disk_while_mail_leaves_is_not_taken_for_success(tmp_path: Path, when: int) -> None:
    with relaying(tmp_path) as server:
        error = f"fdatasync:error=EIO:when={when}"
        with Strace(server.pids("keeper mail"), "fdatasync", tmp_path / "log", error):
            ledger = send(server.port, "eio")
        until(lambda: bool(send(server.port, "probe").acked), 60, server._last_words)
        assert judge(server, ledger, "eio") == []
        after = send(server.port, "after")
        assert len(after.acked) == len(after.sent)
        assert judge(server, after, "after") == []


def _soon(act: Callable[[], object]) -> None:
    """Do what another program may keep us from for a moment."""
    ends = time.monotonic() + 20
    while True:
        try:
            act()
        except apsw.BusyError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.002)
        else:
            return
