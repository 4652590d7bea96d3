"""kill -9 at chosen system calls of the accept path: no mail that was answered 250 is lost, none is partial.

A ledger client writes down what it sent and what was answered. strace is attached to the keeper or to the workers
just before the load, and kills one of them at the n-th call of one kind (a write, a sync, a rename, a reply); at
some points every process of the server is killed with it. When the server is there again, everything is read back
over IMAP. The points are spread over the calls that a load was seen to make. The same client and checker must also
catch a server that lies (the negative control).
"""

import hashlib
import imaplib
import json
import os
import random
import re
import signal
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.peers import program

pytestmark = [pytest.mark.process, pytest.mark.peer("strace")]
MAILS: Final = 8
SESSIONS: Final = 4
POINTS: Final = 40
DEEP_POINTS: Final = 200
EVERYTHING_EVERY: Final = 5
"""At each fifth point the whole server is killed, not one process."""

KEEPER_CALLS: Final = ("pwrite64", "fdatasync", "write", "sendto", "sendmsg", "writev")
WORKER_CALLS: Final = ("write", "sendto", "sendmsg", "writev", "fsync", "rename", "openat")
ROLES: Final = {"keeper mail": KEEPER_CALLS, "worker": WORKER_CALLS}


@dataclass(frozen=True, slots=True)
class Point:
    """Where to kill: a process of `role` at its `number`-th `call` of a load; `everything`: and all others."""

    role: str
    call: str
    number: int
    everything: bool


@dataclass
class Ledger:
    """What was sent, and what was acknowledged: subject to the digest of its body."""

    sent: dict[str, str] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)


def lost_or_broken(ledger: Ledger, found: list[tuple[str, str]]) -> list[str]:
    """Return every breach of P1 and P2."""
    subjects = [subject for subject, _ in found]
    wrong = [f"lost: {subject}" for subject in sorted(ledger.acked) if subject not in subjects]
    wrong += [f"unknown: {subject}" for subject in subjects if subject not in ledger.sent]
    wrong += [f"broken: {subject}" for subject, digest in found if ledger.sent.get(subject) != digest]
    wrong += [f"twice: {subject}" for subject in ledger.acked if subjects.count(subject) > 1]
    return wrong


def body_of(number: int) -> str:
    """Return a body of its own for each mail: small ones, and large ones that no compression brings into a row."""
    if number % 4:
        return "".join(f"line {number} {at}\r\n" for at in range(300))
    digests = (hashlib.sha256(b"%d %d" % (number, at)).hexdigest() for at in range(6_000))
    return "".join(f"{digest}\r\n" for digest in digests)


BODIES: Final = [body_of(number) for number in range(MAILS)]
DIGESTS: Final = [hashlib.sha256(body.encode()).hexdigest() for body in BODIES]


def send(port: int, rcpt: str, prefix: str) -> Ledger:
    """Send all mails over a few sessions; return what was sent and answered."""
    ledger = Ledger()

    def session(numbers: range) -> None:
        for number in numbers:
            subject = f"{prefix}-{number}"
            ledger.sent[subject] = DIGESTS[number]
            text = f"From: <ann@sender.example>\r\nSubject: {subject}\r\n\r\n{BODIES[number]}"
            try:
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                    client.sendmail("ann@sender.example", [rcpt], text)
                ledger.acked.add(subject)
            except (OSError, smtplib.SMTPException):
                pass

    threads = [threading.Thread(target=session, args=(range(at, MAILS, SESSIONS),)) for at in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ledger


def until(holds: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    """Wait for something to hold; fail when it does not within `seconds`."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"after {seconds} s: {what()}"
        time.sleep(0.02)


class Server:
    """A real `gatepost serve` with two workers on data that a held server made; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._config = folder / "t" / "gatepost.toml"
        self._log = folder / "server.log"
        words = ["try", "--hold", "--json", str(folder / "facts.json"), "--data-dir", str(folder / "t")]
        words += ["--workers", "2"]
        made = subprocess.Popen([sys.executable, "-m", "gatepost", *words], stderr=subprocess.DEVNULL)
        until((folder / "facts.json").exists, 60, lambda: "no held server")
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
        made.terminate()
        made.wait(60)
        self._config.write_text(self.facts["config"])
        self._supervisor: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def port(self) -> int:
        return int(self.facts["ports"]["mx"])

    @property
    def rcpt(self) -> str:
        return str(self.facts["accounts"][0]["address"])

    def start(self) -> None:
        command = [sys.executable, "-m", "gatepost", "serve", "-c", str(self._config)]
        with self._log.open("wb") as log:
            self._supervisor = subprocess.Popen(command, stdout=log, stderr=log)
        self.wait_whole()

    def pids(self, role: str = "") -> list[int]:
        """Return the server's processes, or those whose name begins with `role`."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                name = (entry / "comm").read_text() if words else ""
            except OSError:
                continue
            if str(self._config).encode() in words and b"strace" not in words and name.startswith(role):
                found.append(int(entry.name))
        return found

    def wait_whole(self) -> None:
        """Wait until all roles are there, the server greets, and it takes a mail's recipient."""
        until(lambda: len(self.pids("worker")) == 2 and len(self.pids("keeper")) == 2, 40, self._last_words)
        until(self._answers, 40, self._last_words)

    def _last_words(self) -> str:
        """Return which processes there are and what the server said: for whoever reads a failure."""
        names = [f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}" for pid in self.pids()]
        return f"{names}\n{self._log.read_text()[-3000:]}"

    def _answers(self) -> bool:
        try:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=5) as client:
                client.ehlo()
                client.mail("probe@sender.example")
                return client.rcpt(self.rcpt)[0] == 250
        except (OSError, smtplib.SMTPException):
            return False

    def kill_everything(self) -> None:
        """Kill -9 all processes, the supervisor first: nothing is restarted behind our back."""
        assert self._supervisor is not None
        self._supervisor.kill()
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self._supervisor.poll() is not None and pids == [self._supervisor.pid]:
                break
        self._supervisor.wait(10)

    def stop(self) -> None:
        assert self._supervisor is not None
        self._supervisor.terminate()
        try:
            self._supervisor.wait(40)
        finally:
            self.kill_everything()

    def read_back(self, prefix: str) -> list[tuple[str, str]]:
        """Return (subject, digest of the body) of the mails whose subject begins with `prefix`."""
        account = self.facts["accounts"][0]
        client = imaplib.IMAP4("127.0.0.1", self.facts["ports"]["imap"])
        client.login(account["address"], account["password"])
        client.select("INBOX", readonly=True)
        _, (numbers,) = client.search(None, "SUBJECT", f'"{prefix}-"')
        data = client.fetch(numbers.replace(b" ", b",").decode(), "(BODY.PEEK[])")[1] if numbers else []
        client.logout()
        found = []
        for part in data:
            if isinstance(part, tuple):
                header, _, body = part[1].partition(b"\r\n\r\n")
                subject = header.partition(b"\r\nSubject: ")[2].partition(b"\r\n")[0].decode()
                found.append((subject, hashlib.sha256(body).hexdigest()))
        return found


class Strace:
    """strace attached to processes, for one load."""

    def __init__(self, pids: list[int], calls: str, log: Path, *injections: str) -> None:
        attach = [word for pid in pids for word in ("-p", str(pid))]
        injected = [word for each in injections for word in ("-e", f"inject={each}")]
        command = [program("strace"), "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", *injected, *attach]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: all(traced(pid) for pid in pids), 10, lambda: "strace did not attach")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(2)
        except subprocess.TimeoutExpired:  # it waits for a tracee that is dying; the kernel lets the others go
            self.process.kill()
            self.process.wait(10)


def traced(pid: int) -> bool:
    """Tell whether all threads of a process have a tracer; a process that is gone counts as traced."""
    try:
        states = [task.joinpath("status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return True
    return not any("TracerPid:\t0\n" in state for state in states)


def calls_of_a_load(server: Server, folder: Path) -> dict[tuple[str, str], int]:
    """Return how often each call is made during a load, by role: the most that one thread made."""
    found: dict[tuple[str, str], int] = {}
    for role, calls in ROLES.items():
        log = folder / f"{role.replace(' ', '-')}.strace"
        with Strace(server.pids(role), ",".join(calls), log):
            ledger = send(server.port, server.rcpt, f"count{len(found)}")
        assert len(ledger.acked) == MAILS
        lines = re.findall(r"^([0-9]+) +([a-z0-9]+)\(", log.read_text(), re.MULTILINE)
        for (_, call), count in Counter(lines).items():
            found[role, call] = max(found.get((role, call), 0), count)
    return found


def points_over(found: dict[tuple[str, str], int], wanted: int) -> list[Point]:
    """Spread points evenly over the calls, so that no kind of call is left out."""
    points: list[Point] = []
    share = wanted // len(found)
    spare = wanted - share * len(found)
    for at, ((role, call), count) in enumerate(sorted(found.items())):
        here = share + (at < spare)
        for each in range(here):
            number = 1 + each * max(1, count) // here
            points.append(Point(role, call, number, len(points) % EVERYTHING_EVERY == 0))
    return points


def strike(server: Server, point: Point, prefix: str, log: Path) -> tuple[bool, Ledger]:
    """Send a load, kill at a point, see the server whole again; return whether it was reached, and the ledger."""
    victims = server.pids(point.role)
    injection = f"{point.call}:signal=SIGKILL:when={point.number}"
    done = threading.Event()

    def follow() -> None:
        """Kill the rest as soon as the first is dead."""
        while not done.is_set() and all(Path(f"/proc/{pid}").exists() for pid in victims):
            time.sleep(0.001)
        if not done.is_set():
            server.kill_everything()

    with Strace(victims, point.call, log, injection):
        follower = threading.Thread(target=follow)
        if point.everything:
            follower.start()
        ledger = send(server.port, server.rcpt, prefix)
        hit = not all(Path(f"/proc/{pid}").exists() for pid in victims)
        if point.everything:
            if not hit:
                done.set()
            follower.join()
    if hit and point.everything:
        server.start()
    else:
        server.wait_whole()
    return hit, ledger


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that is killed again and again, always on the same data."""
    server = Server(tmp_path_factory.mktemp("kill"))
    yield server
    server.stop()


@pytest.mark.timeout(3600)
@pytest.mark.row("REL-01", "REL-02")
def test_no_acknowledged_mail_is_lost_at_a_kill(
    server: Server, tmp_path: Path, deep: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = calls_of_a_load(server, tmp_path)
    assert {"pwrite64", "fdatasync"} <= {call for role, call in found if role == "keeper mail"}
    assert {"fsync", "rename"} <= {call for role, call in found if role == "worker"}
    wrong: dict[Point, list[str]] = {}
    reached = acked = unanswered = 0
    wanted = DEEP_POINTS if deep else POINTS
    points = points_over(found, 2 * wanted)  # which thread makes the n-th call differs from load to load
    random.Random(7).shuffle(points)
    for at, point in enumerate(points):
        hit, ledger = strike(server, point, f"p{at}", tmp_path / "log")
        breaches = lost_or_broken(ledger, server.read_back(f"p{at}"))
        if breaches:
            wrong[point] = breaches
        reached += hit
        acked += len(ledger.acked)
        unanswered += len(ledger.sent) - len(ledger.acked)
        if reached == wanted:
            break
    with capsys.disabled():
        print(f"\n{reached} kills: {acked} mails acknowledged, {unanswered} not, {len(wrong)} points with a breach")
    assert not wrong
    assert reached == wanted, "too few points were reached"
    assert unanswered > 0, "no kill ever disturbed a mail: the sweep proves nothing"


LIAR: Final = """
import pathlib, socketserver, sys, threading
folder, kept, lock = pathlib.Path(sys.argv[1]), [], threading.Lock()
class Liar(socketserver.StreamRequestHandler):
    def handle(self):
        say = lambda line: self.wfile.write(line + b"\\r\\n")
        say(b"220 liar")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                say(b"354 go on")
                mail = b""
                while (line := self.rfile.readline()) != b".\\r\\n":
                    mail += line
                with lock:
                    kept.append(mail)  # in memory: that is the lie
                    if len(kept) > 2:
                        (folder / str(len(kept))).write_bytes(kept[-3])
            say(b"221 bye" if word == b"QUIT" else b"250 ok")
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
with Server(("127.0.0.1", 0), Liar) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""


def test_the_same_client_and_checker_catch_a_server_that_acknowledges_before_it_stores(tmp_path: Path) -> None:
    liar = subprocess.Popen([sys.executable, "-c", LIAR, str(tmp_path)], stdout=subprocess.PIPE)
    assert liar.stdout is not None
    with liar.stdout:
        ledger = send(int(liar.stdout.readline()), "joe@gate.example", "lie")
        liar.kill()
        liar.wait(10)
    assert len(ledger.acked) == MAILS
    found = []
    for file in tmp_path.iterdir():
        header, _, body = file.read_bytes().partition(b"\r\n\r\n")
        subject = header.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
        found.append((subject, hashlib.sha256(body).hexdigest()))
    assert len([breach for breach in lost_or_broken(ledger, found) if breach.startswith("lost")]) == 2


def test_the_checker_catches_a_server_that_lies() -> None:
    ledger = Ledger({"a": "1", "b": "2"}, {"a", "b"})
    assert lost_or_broken(ledger, [("a", "1")]) == ["lost: b"]
    assert lost_or_broken(ledger, [("a", "1"), ("b", "x")]) == ["broken: b"]
    assert lost_or_broken(ledger, [("a", "1"), ("a", "1"), ("b", "2")]) == ["twice: a"]
    assert lost_or_broken(ledger, [("a", "1"), ("b", "2"), ("c", "3")]) == ["unknown: c", "broken: c"]
