"""kill -9 at chosen system calls of the accept path: no mail that was answered 250 is lost, none is partial.

A ledger client writes down what it sent and what was answered. The server runs under strace, which kills it at the
n-th call of one kind; it is started again on the same data and everything is read back over IMAP. The checker must
also catch a server that lies: it is shown one (the negative control).
"""

import hashlib
import imaplib
import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.peers import program

pytestmark = [pytest.mark.process, pytest.mark.peer("strace")]
MAILS: Final = 8
SESSIONS: Final = 4
SAMPLE: Final = [
    ("fdatasync", 3),
    ("fdatasync", 6),
    ("pwrite64", 40),
    ("pwrite64", 90),
    ("sendto", 30),
    ("write", 60),
]
DEEP: Final = [(call, n) for call in ("fdatasync", "fsync", "pwrite64", "sendto", "write") for n in range(2, 82, 2)]


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
    """Return a body of its own for each mail, small or large."""
    return "".join(f"line {number} {at}\r\n" for at in range(300 if number % 4 else 12_000))


def send(port: int, rcpt: str, ledger: Ledger) -> None:
    """Send all mails over a few sessions; note what was answered."""

    def session(numbers: list[int]) -> None:
        for number in numbers:
            subject, body = f"ledger-{number}", body_of(number)
            ledger.sent[subject] = hashlib.sha256(body.encode()).hexdigest()
            text = f"From: <ann@sender.example>\r\nSubject: {subject}\r\n\r\n{body}"
            try:
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                    client.sendmail("ann@sender.example", [rcpt], text)
                ledger.acked.add(subject)
            except (OSError, smtplib.SMTPException):
                return

    threads = [threading.Thread(target=session, args=(list(range(at, MAILS, SESSIONS)),)) for at in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_back(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (subject, digest of the body) of all mails in the first account's INBOX."""
    account = facts["accounts"][0]
    client = imaplib.IMAP4("127.0.0.1", facts["ports"]["imap"])
    client.login(account["address"], account["password"])
    client.select("INBOX")
    _, data = client.fetch("1:*", "(BODY.PEEK[])")
    client.logout()
    found = []
    for part in data:
        if isinstance(part, tuple):
            header, _, body = part[1].partition(b"\r\n\r\n")
            subject = header.partition(b"\r\nSubject: ")[2].partition(b"\r\n")[0].decode()
            found.append((subject, hashlib.sha256(body).hexdigest()))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A data directory with accounts, made by a held server that was then stopped."""
    folder = tmp_path_factory.mktemp("kill")
    words = ["try", "--hold", "--json", str(folder / "facts.json"), "--data-dir", str(folder / "t")]
    process = subprocess.Popen([sys.executable, "-m", "gatepost", *words], stderr=subprocess.DEVNULL)
    ends = time.monotonic() + 60
    while not (folder / "facts.json").exists():
        assert time.monotonic() < ends
        time.sleep(0.05)
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text())
    process.terminate()
    process.wait(60)
    return facts


def serve(facts: dict[str, Any], data: Path, *strace: str) -> "subprocess.Popen[bytes]":
    """Start a server on a copy of the data; return when it greets (or has died)."""
    config = data / "gatepost.toml"
    text = facts["config"].replace(facts["data_dir"], str(data / "data"))
    config.write_text(text)
    command = [*strace, sys.executable, "-m", "gatepost", "serve", "-c", str(config)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    ends = time.monotonic() + 40
    while time.monotonic() < ends and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", facts["ports"]["mx"]), 5) as probe:
                probe.settimeout(10)
                if probe.recv(100):
                    break
        except OSError:
            time.sleep(0.05)
    return process


def end(process: "subprocess.Popen[bytes]", number: int, folder: Path) -> None:
    """End a server; with SIGKILL all its processes at once, wherever strace left them."""
    if number == signal.SIGKILL:
        for pid in ours(folder):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    else:
        process.send_signal(number)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def ours(folder: Path) -> list[int]:
    """Return the processes that were started with a configuration in `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if str(folder / "gatepost.toml").encode() in words:
            found.append(int(entry.name))
    return found


def one_point(facts: dict[str, Any], folder: Path, call: str, number: int) -> tuple[int, list[str]]:
    """Kill at one point; return how many mails were acknowledged and what went wrong."""
    subprocess.run(["cp", "-a", str(Path(facts["data_dir"])), str(folder / "data")], check=True)
    ledger = Ledger()
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    traced = serve(
        facts, folder, program("strace"), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject
    )
    send(facts["ports"]["mx"], facts["accounts"][0]["address"], ledger)
    end(traced, signal.SIGKILL, folder)
    again = serve(facts, folder)
    try:
        wrong = lost_or_broken(ledger, read_back(facts))
    finally:
        end(again, signal.SIGTERM, folder)
    return len(ledger.acked), wrong


@pytest.mark.timeout(280)
@pytest.mark.row("REL-01", "REL-02")
def test_no_acknowledged_mail_is_lost_at_a_kill(made: dict[str, Any], tmp_path: Path, deep: bool) -> None:
    wrong = {}
    acked = 0
    for call, number in SAMPLE:
        folder = tmp_path / f"{call}{number}"
        folder.mkdir()
        count, found = one_point(made, folder, call, number)
        acked += count
        if found:
            wrong[call, number] = found
    assert not wrong
    assert acked > 0, "no mail was ever acknowledged: the sweep proves nothing"


@pytest.mark.deep
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("call", "number"), DEEP)
def test_no_acknowledged_mail_is_lost_in_the_whole_sweep(
    made: dict[str, Any], tmp_path: Path, call: str, number: int
) -> None:
    _, wrong = one_point(made, tmp_path, call, number)
    assert wrong == []


def test_the_checker_catches_a_server_that_lies() -> None:
    ledger = Ledger({"a": "1", "b": "2"}, {"a", "b"})
    assert lost_or_broken(ledger, [("a", "1")]) == ["lost: b"]
    assert lost_or_broken(ledger, [("a", "1"), ("b", "x")]) == ["broken: b"]
    assert lost_or_broken(ledger, [("a", "1"), ("a", "1"), ("b", "2")]) == ["twice: a"]
    assert lost_or_broken(ledger, [("a", "1"), ("b", "2"), ("c", "3")]) == ["unknown: c", "broken: c"]
