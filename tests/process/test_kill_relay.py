"""kill -9 on the way out: accept, queue, relay. What was answered 250 reaches the next hop, whole, and once.

The ledger client and strace of test_kill.py, and a next hop that keeps what it takes. Twice is allowed where nobody
can know (RFC 1047): the client was not answered, or the log says `possible_duplicate` for that mail.
"""

import hashlib
import json
import random
import re
import smtplib
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.process.served import free_ports
from tests.process.test_kill import DIGESTS, MAILS, SESSIONS, Server, Strace, body_of, points_over, until

pytestmark = [pytest.mark.process, pytest.mark.peer("strace")]
POINTS: Final = 12
DEEP_POINTS: Final = 200
LEASE: Final = 10  # s, the shortest there is
CALLS: Final = {
    "keeper mail": ("pwrite64", "fdatasync", "write", "sendmsg"),
    "worker": ("write", "sendto", "sendmsg", "writev", "connect", "fsync", "rename"),
}
CONFIG: Final = """\
[server]
hostname = "mx.home.example"
data_dir = "{folder}/data"
workers = 2
[listen.mx]
kind = "mx"
address = ["127.0.0.1:{port}"]
[gate]
exempt = ["127.0.0.0/8"]
[queue]
lease = "{lease}s"
[policy.actions.out]
do = "relay"
host = "127.0.0.1"
port = {hop}
tls = "none"
[[policy.rules]]
match = {{ from = "local", for = "any" }}
action = "out"
"""


class NextHop(socketserver.ThreadingTCPServer):
    """Takes mails; `taken` has (subject, digest of the body) of each, in order."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Taking)
        self.taken: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True).start()


class Taking(socketserver.StreamRequestHandler):
    """One connection."""

    server: NextHop

    def handle(self) -> None:
        try:
            self._talk()
        except OSError:
            pass  # the server was killed

    def _talk(self) -> None:
        self._say(b"220 hop.example ESMTP")
        while line := self.rfile.readline():
            match line[:4].upper():
                case b"EHLO":
                    self._say(b"250-hop.example\r\n250-PIPELINING\r\n250 8BITMIME")
                case b"DATA":
                    self._say(b"354 go on")
                    if not self._take():
                        return
                    self._say(b"250 2.0.0 taken")
                case b"QUIT":
                    self._say(b"221 bye")
                    return
                case _:
                    self._say(b"250 ok")

    def _take(self) -> bool:
        mail = b""
        while (line := self.rfile.readline()) != b".\r\n":
            if not line.endswith(b"\r\n"):
                return False  # cut off before the dot: no mail
            mail += line[1:] if line.startswith(b".") else line
        header, _, body = mail.partition(b"\r\n\r\n")
        subject = re.search(rb"^Subject: ([^\r\n]*)", header, re.MULTILINE)
        assert subject is not None
        self.server.taken.append((subject[1].decode(), hashlib.sha256(body).hexdigest()))
        return True

    def _say(self, line: bytes) -> None:
        self.wfile.write(line + b"\r\n")


class Relaying(Server):
    """A real server with two workers that sends everything to one next hop."""

    def __init__(self, folder: Path) -> None:
        port, hop = free_ports(2)
        self._config, self._log = folder / "gatepost.toml", folder / "server.log"
        self.diary = folder / "data" / "log" / "gatepost.log"
        self._config.write_text(CONFIG.format(folder=folder, port=port, hop=hop, lease=LEASE))
        self.facts = {"ports": {"mx": port}, "accounts": [{"address": "joe@far.example"}]}
        self.hop = NextHop(hop)
        self.start()

    def stop(self) -> None:
        super().stop()
        self.hop.shutdown()
        self.hop.server_close()

    def said_doubtful(self) -> set[str]:
        """Return the ids of the mails that may have gone out twice, as the log says."""
        records = filter(None, map(_record, self.diary.read_bytes().splitlines()))
        return {each["message"] for each in records if each["event"] == "possible_duplicate"}


def _record(line: bytes) -> dict[str, str]:
    """Read a line of the log; nothing of one that a power cut has left."""
    try:
        found: dict[str, str] = json.loads(line)
    except ValueError:
        return {}
    return found


@dataclass
class Sent:
    """The ledger: subjects to digests, and of those that were answered 250 the id that was given."""

    sent: dict[str, str] = field(default_factory=dict)
    acked: dict[str, str] = field(default_factory=dict)


def send(port: int, prefix: str) -> Sent:
    """Send all mails over a few sessions; return what was sent and answered."""
    ledger = Sent()

    def session(numbers: range) -> None:
        for number in numbers:
            subject = f"{prefix}-{number}"
            ledger.sent[subject] = DIGESTS[number]
            text = f"From: <ann@home.example>\r\nSubject: {subject}\r\n\r\n{body_of(number)}"
            try:
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                    client.ehlo()
                    client.mail("ann@home.example")
                    client.rcpt("joe@far.example")
                    code, answer = client.data(text)
                    if code == 250:
                        ledger.acked[subject] = answer.decode().split()[1]
            except (OSError, smtplib.SMTPException):
                pass

    threads = [threading.Thread(target=session, args=(range(at, MAILS, SESSIONS),)) for at in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ledger


def breaches(ledger: Sent, taken: list[tuple[str, str]], doubtful: set[str]) -> list[str]:
    """Return every breach of P1, P2 and P3."""
    count = Counter(subject for subject, _ in taken)
    wrong = [f"lost: {subject}" for subject in ledger.acked if not count[subject]]
    wrong += [f"unknown: {subject}" for subject, _ in taken if subject not in ledger.sent]
    wrong += [f"broken: {subject}" for subject, digest in taken if ledger.sent.get(subject) != digest]
    twice = (subject for subject in ledger.acked if count[subject] > 1)
    return wrong + [f"twice: {subject}" for subject in twice if ledger.acked[subject] not in doubtful]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relaying]:
    """The server that is killed again and again, always on the same data."""
    server = Relaying(tmp_path_factory.mktemp("kill-relay"))
    yield server
    server.stop()


def calls_of_a_load(server: Relaying, folder: Path) -> dict[tuple[str, str], int]:
    """Return how often each call is made until the next hop has a load, by role: the most of one thread."""
    found: dict[tuple[str, str], int] = {}
    for role, calls in CALLS.items():
        log = folder / f"{role.replace(' ', '-')}.strace"
        with Strace(server.pids(role), ",".join(calls), log):
            ledger = send(server.port, f"count{len(found)}")
            arrived(server, ledger)
        lines = re.findall(r"^([0-9]+) +([a-z0-9]+)\(", log.read_text(), re.MULTILINE)
        for (_, call), count in Counter(lines).items():
            found[role, call] = max(found.get((role, call), 0), count)
    return found


def arrived(server: Relaying, ledger: Sent) -> None:
    """Wait until the next hop has all that was acknowledged."""

    def missing() -> set[str]:
        return set(ledger.acked) - {subject for subject, _ in server.hop.taken}

    until(lambda: not missing(), 4 * LEASE, lambda: f"not arrived: {sorted(missing())}")


@pytest.mark.timeout(3600)
@pytest.mark.row("REL-02", "REL-05")
def test_what_was_acknowledged_reaches_the_next_hop_through_any_kill(
    server: Relaying, tmp_path: Path, deep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = DEEP_POINTS if deep else POINTS
    points = points_over(calls_of_a_load(server, tmp_path), 2 * wanted)
    random.Random(11).shuffle(points)
    whole = Sent()
    reached = 0
    for at, point in enumerate(points):
        victims = server.pids(point.role)
        injection = f"{point.call}:signal=SIGKILL:when={point.number}"
        with Strace(victims, point.call, tmp_path / "log", injection):
            ledger = send(server.port, f"p{at}")
            ends = time.monotonic() + 0.5  # the way out goes on after the last 250
            while time.monotonic() < ends and all(Path(f"/proc/{pid}").exists() for pid in victims):
                time.sleep(0.005)
            hit = not all(Path(f"/proc/{pid}").exists() for pid in victims)
            if hit and point.everything:
                server.kill_everything()
        if hit and point.everything:
            server.start()
        else:
            server.wait_whole()
        whole.sent |= ledger.sent
        whole.acked |= ledger.acked
        reached += hit
        if reached == wanted:
            break
    arrived(server, whole)
    taken = [each for each in server.hop.taken if each[0] in whole.sent]
    doubtful = server.said_doubtful()
    with capsys.disabled():
        twice = sum(count > 1 for count in Counter(subject for subject, _ in taken).values())
        acked = f"{len(whole.acked)} of {len(whole.sent)} acknowledged"
        print(f"\n{reached} kills: {acked}, {twice} twice at the next hop")
    assert breaches(whole, taken, doubtful) == []
    assert reached == wanted, "too few points were reached"


def test_the_checker_catches_what_it_is_for() -> None:
    ledger = Sent({"a": "1", "b": "2", "c": "3"}, {"a": "ida", "b": "idb"})
    assert breaches(ledger, [("a", "1"), ("b", "2")], set()) == []
    assert breaches(ledger, [("a", "1")], set()) == ["lost: b"]
    assert breaches(ledger, [("a", "1"), ("b", "x")], set()) == ["broken: b"]
    assert breaches(ledger, [("a", "1"), ("a", "1"), ("b", "2")], set()) == ["twice: a"]
    assert breaches(ledger, [("a", "1"), ("a", "1"), ("b", "2"), ("c", "3"), ("c", "3")], {"ida"}) == []
    assert breaches(ledger, [("a", "1"), ("b", "2"), ("d", "4")], set()) == ["unknown: d", "broken: d"]
