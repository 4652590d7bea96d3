"""A primary and a backup that joined it, in network namespaces: the primary is killed under load and comes back.

An hour is 8 s here: the backup asks for the list every second instead of every seven minutes. Each mail has an id
of its own; the sender's ledger has those for which it was told 250. It tries mx1 first and mx2 when mx1 does not
answer, as any mail server would.
"""

import contextlib
import functools
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
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.process.namespaces import _inside, in_namespace
from tests.process.served import until
from tests.support.peers import cannot, program

pytestmark = [pytest.mark.process, pytest.mark.peer("iproute2")]
T = TypeVar("T")
MX1, MX2, WAN, FORGER = "10.78.0.1", "10.78.0.2", "10.78.200.1", "10.78.201.1"
SENDERS: Final = tuple(f"10.78.200.{last}" for last in range(2, 42))
"""Where the load comes from: one address may make 60 connections in a minute."""
OUTAGE_S: Final = 8.0
"""An hour, at 450 times the speed."""
PAUSE_S: Final = 0.05
PASSWORD: Final = "secret"
ANN, GONE = "ann@example.org", "gone@example.org"

DNS: Final = """
import asyncio, sys
from gatepost.welcome.zone import Zone, ZoneServer, _Datagrams
zone = Zone()
zone.add("example.org", "MX", "10 mx1.example.org.", "20 mx2.example.org.")
zone.add("mx1.example.org", "A", "10.78.0.1")
zone.add("mx2.example.org", "A", "10.78.0.2")
zone.add("sender.example", "MX", "10 mail.sender.example.")
zone.add("mail.sender.example", "A", "10.78.200.1")
zone.add_text("sender.example", "v=spf1 ip4:10.78.200.0/24 -all")
async def main():
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: _Datagrams(zone), local_addr=("10.78.200.1", 53))
    await asyncio.start_server(ZoneServer(zone)._converse, "10.78.200.1", 53)
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

PEOPLE: Final = """
import sys
from gatepost.cli.commands import app
config, password = sys.argv[1:]
def do(*words): app([*words, "-c", config], standalone_mode=False)
do("domain", "add", "example.org")
for address in ("ann@example.org", "gone@example.org"):
    do("user", "add", address, "--password-file", password)
"""
"""One program for three commands: each takes a second to start."""

PRIMARY: Final = """
[server]
hostname = "mx1.example.org"
data_dir = "{folder}/data"
workers = 1
[listen.mx]
kind = "mx"
address = ["10.78.0.1:25"]
[listen.imap]
kind = "imap"
address = ["10.78.0.1:143"]
[listen.web]
kind = "https"
address = ["10.78.0.1:443"]
[resolver]
servers = ["10.78.200.1"]
[gate]
backups = ["10.78.0.2"]
exempt = ["127.0.0.0/8", "10.78.200.0/22"]
[feeds.sync]
listen = "10.78.0.1"
peers = ["10.78.0.2"]
key_files = ["{folder}/sync.key"]
[intake]
mails_per_minute = 1000000
[view]
plain_passwords = true
"""

BACKUP: Final = """
[listen.mx]
kind = "mx"
address = ["10.78.0.2:25"]
[resolver]
servers = ["10.78.200.1"]
"""


class Net:
    """Three machines on one wire."""

    names = ("wan", "mx1", "mx2")

    def __init__(self) -> None:
        self.tag = f"gpb{os.getpid()}"

    def name(self, short: str) -> str:
        return f"{self.tag}-{short}"

    def make(self) -> None:
        for short in self.names:
            ip("netns", "add", self.name(short))
            self.ip(short, "link", "set", "lo", "up")
        self.ip("wan", "link", "add", "wan", "type", "bridge")
        for address in (WAN, FORGER, *SENDERS):
            self.ip("wan", "addr", "add", f"{address}/16", "dev", "wan")
        self.ip("wan", "link", "set", "wan", "up")
        for short, address in (("mx1", MX1), ("mx2", MX2)):
            self.ip("wan", "link", "add", short, "type", "veth", "peer", "name", "eth0", "netns", self.name(short))
            self.ip("wan", "link", "set", short, "master", "wan", "up")
            self.ip(short, "addr", "add", f"{address}/16", "dev", "eth0")
            self.ip(short, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for short in self.names:
            subprocess.run(["ip", "netns", "del", self.name(short)], check=False, stderr=subprocess.DEVNULL)

    def ip(self, short: str, *words: str) -> None:
        ip("-n", self.name(short), *words)

    def inside(self, short: str, work: Callable[[], T]) -> T:
        """Run `work` in a thread on a machine."""
        return _inside(self.name(short), work)


def ip(*words: str) -> None:
    subprocess.run([program("ip", "/usr/sbin/ip"), *words], check=True)


@dataclass
class Server:
    """One gatepost on one machine."""

    net: Net
    name: str
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def config(self) -> Path:
        return self.folder / "gatepost.toml"

    def argv(self, *words: str) -> list[str]:
        return in_namespace(self.net.name(self.name), sys.executable, "-m", "gatepost", *words)

    def command(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(self.argv(*words, "-c", str(self.config)), capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            argv = self.argv("serve", "-c", str(self.config))
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        until(self.serves, 40, self.last_words)

    def serves(self) -> bool:
        try:
            status = json.loads((self.folder / "data" / "run" / "status.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return False
        assert self.process is not None
        return bool(status.get("state") == "serving" and status.get("pid") == self.process.pid)

    def last_words(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def kill(self) -> None:
        """Kill all of its processes at once."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()


@dataclass
class Ledger:
    """What the sender knows."""

    acked: dict[str, str] = field(default_factory=dict)
    """Ids of mails for which it was told 250, and by whom."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Replies to RCPT for somebody who does not exist, by server and code."""
    done: threading.Event = field(default_factory=threading.Event)

    def by(self, server: str) -> int:
        return list(self.acked.values()).count(server)


def sending(ledger: Ledger, letter: str) -> None:
    """Send mail after mail until told to stop, each to the first server that answers."""
    number = 0
    while not ledger.done.is_set():
        number += 1
        for server in (MX1, MX2):
            try:
                if one(server, ledger, f"{letter}{number}"):
                    break
            except (OSError, smtplib.SMTPException):
                continue
        time.sleep(PAUSE_S)


def one(server: str, ledger: Ledger, name: str) -> bool:
    """Send one mail; a fresh id for each attempt, so that what was taken without a 250 is another mail."""
    source = (SENDERS[len(ledger.acked) % len(SENDERS)], 0)
    name = f"{name}-{server}"
    with smtplib.SMTP(server, timeout=5, source_address=source, local_hostname="mail.sender.example") as client:
        client.ehlo()
        client.mail("joe@sender.example")
        code, _ = client.rcpt("nobody@example.org")
        ledger.unknown[f"{server} {code}"] += 1
        code, _ = client.rcpt(ANN)
        if code != 250:
            return False
        code, _ = client.data(f"From: joe@sender.example\r\nTo: {ANN}\r\nSubject: id {name}\r\n\r\nHello.\r\n")
        if code == 250:
            ledger.acked[name] = server
        return code == 250


def offer(source: str, sender: str, recipient: str) -> int:
    """Offer one mail to the backup; return what it says in the end."""
    with smtplib.SMTP(MX2, timeout=10, source_address=(source, 0), local_hostname="x.example") as client:
        client.ehlo()
        client.mail(sender)
        code, _ = client.rcpt(recipient)
        if code != 250:
            return code
        return client.data(f"From: {sender}\r\nTo: {recipient}\r\nSubject: late\r\n\r\nHello.\r\n")[0]


class Sink:
    """The mail server of sender.example: takes everything, remembers to whom."""

    def __init__(self, net: Net) -> None:
        self.taken: list[str] = []
        self.sock = net.inside("wan", lambda: socket.create_server((WAN, 25)))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self.sock.accept()
                with taken, taken.makefile("rwb") as lines, contextlib.suppress(OSError):
                    self._converse(lines)

    def _converse(self, lines) -> None:  # type: ignore[no-untyped-def]  # a socket's file
        def say(text: bytes) -> None:
            lines.write(text + b"\r\n")
            lines.flush()

        say(b"220 mail.sender.example")
        while line := lines.readline():
            word = line[:4].upper()
            if word == b"DATA":
                say(b"354 go on")
                while lines.readline() not in (b".\r\n", b""):
                    pass
            if word == b"RCPT":
                self.taken.append(line.decode().split("<")[1].split(">")[0])
            say(b"221 bye" if word == b"QUIT" else b"250 ok")


def ids(found: list[str]) -> Counter[str]:
    return Counter(each.removeprefix("id ") for each in found if each.startswith("id "))


def subjects() -> list[str]:
    """Return the subjects in ann's INBOX."""
    client = imaplib.IMAP4(MX1, timeout=20)
    client.login(ANN, PASSWORD)
    client.select("INBOX", readonly=True)
    _, found = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    client.logout()
    return [each[1].decode().removeprefix("Subject: ").strip() for each in found if isinstance(each, tuple)]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    program("ip", "/usr/sbin/ip")
    if os.geteuid() != 0 or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        cannot("make network namespaces")
    made = Net()
    try:
        made.make()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def servers(net: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A primary that serves, and a backup that has joined and serves."""
    folder = tmp_path_factory.mktemp("mx")
    primary, backup = (Server(net, name, folder / name) for name in ("mx1", "mx2"))
    with contextlib.ExitStack() as stack:
        names = subprocess.Popen(in_namespace(net.name("wan"), sys.executable, "-c", DNS), stdout=subprocess.PIPE)
        stack.callback(names.wait)
        stack.callback(names.kill)
        stack.callback(names.stdout.close)  # type: ignore[union-attr]  # a pipe
        assert names.stdout.readline() == b"up\n"  # type: ignore[union-attr]  # a pipe
        for each in (primary, backup):
            each.folder.mkdir()
            stack.callback(each.stop)
        (primary.folder / "sync.key").write_bytes(os.urandom(2048))
        primary.config.write_text(PRIMARY.format(folder=primary.folder))
        (folder / "password").write_text(PASSWORD)
        subprocess.run([sys.executable, "-c", PEOPLE, str(primary.config), str(folder / "password")], check=True)
        primary.start()
        asked = primary.command("join", "--invite", "mx2.example.org", "--address", MX2, "--json")
        _, _, url, token = json.loads(asked)["command"].split()
        assert url == "https://mx1.example.org"
        (backup.folder / "token").write_text(token)
        words = ["join", f"https://{MX1}", token, "--output", str(backup.config), "--json"]
        words += ["--data-dir", str(backup.folder / "data")]
        looked = json.loads(backup.command(*words, "--dry-run"))
        assert not looked["written"]
        assert not backup.config.exists()
        joined = json.loads(backup.command(*words))
        assert joined["domains"] == ["example.org"]
        assert joined["dns"] == [
            "example.org. IN MX 20 mx2.example.org.",
            f"mx2.example.org. IN A {MX2}",
        ]
        text = backup.config.read_text()
        text = text.replace("[backup]\n", '[backup]\nrefresh = "1s"\nretry = "1s"\n')
        text = text.replace("[gate]\n", '[gate]\nexempt = ["127.0.0.0/8", "10.78.200.0/22"]\n')
        text = text.replace("[intake]\n", "[intake]\nmails_per_minute = 1000000\n")
        backup.config.write_text(text + BACKUP)
        backup.start()
        until(lambda: "recipients_pulled" in backup.last_words(), 10, backup.last_words)
        yield primary, backup


def test_a_token_works_once_and_only_with_the_primary_that_it_names(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    primary, backup = servers

    def come(token: str) -> str:
        words = ("join", f"https://{MX1}", token, "--output", str(tmp_path / "new" / "gatepost.toml"))
        done = subprocess.run(backup.argv(*words), capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr

    used = (backup.folder / "token").read_text()
    assert "403" in come(used)
    assert "somebody stands between" in come(used[:-64] + "0" * 64)
    assert not (tmp_path / "new").exists()
    files = {each.name: each.stat().st_mode & 0o777 for each in backup.folder.iterdir() if each.is_file()}
    assert files["gatepost.toml"] == files["primary.pem"] == 0o644
    assert files["backup.key"] == files["sync.key"] == 0o600
    listed = json.loads(primary.command("join", "--list", "--json"))
    assert listed == {"backups": [{"name": "mx2.example.org", "addresses": [MX2]}], "changes": {}}


@pytest.mark.row("BM-01", "BM-02", "OUT-04")
def test_a_primary_that_dies_under_load_gets_every_mail_once_and_nobody_a_bounce_of_forged_mail(
    servers: tuple[Server, Server], net: Net
) -> None:
    primary, backup = servers
    sink, ledger, log = Sink(net), Ledger(), backup.folder / "log"
    loads = [threading.Thread(target=net.inside, args=("wan", functools.partial(sending, ledger, x))) for x in "ab"]
    for each in loads:
        each.start()
    try:
        until(lambda: ledger.by(MX1) >= 50, 20, primary.last_words)
        primary.kill()
        began = time.monotonic()
        until(lambda: ledger.by(MX2) >= 50, 20, backup.last_words)
        # Two mails to somebody who leaves meanwhile: one sender is proven by SPF, the other one is forged.
        assert net.inside("wan", lambda: offer(WAN, "joe@sender.example", GONE)) == 250
        assert net.inside("wan", lambda: offer(FORGER, "victim@sender.example", GONE)) == 250
        assert net.inside("wan", lambda: offer(FORGER, "victim@sender.example", "no@example.org")) == 550
        assert net.inside("wan", lambda: offer(WAN, "joe@sender.example", "x@elsewhere.example")) == 550
        shown = json.loads(backup.command("recipients", "show", "--json", status=1))
        assert shown["problem"]
        assert shown["domains"] == ["example.org"]
        until(lambda: time.monotonic() >= began + OUTAGE_S, OUTAGE_S + 1, backup.last_words)
        primary.command("user", "del", GONE, "--yes")
        primary.start()
        until(lambda: "mail_quarantined" in log.read_text(), 20, backup.last_words)
    finally:
        ledger.done.set()
        for each in loads:
            each.join()
    until(lambda: set(ledger.acked) <= set(ids(net.inside("mx1", subjects))), 20, backup.last_words)
    found = ids(net.inside("mx1", subjects))
    assert {name: found[name] for name in ledger.acked} == dict.fromkeys(ledger.acked, 1)
    assert set(ledger.unknown) == {f"{MX1} 550", f"{MX2} 550"}
    until(lambda: "joe@sender.example" in sink.taken, 20, backup.last_words)
    assert set(sink.taken) == {"joe@sender.example"}
    [kept] = json.loads(backup.command("queue", "list", "--json"))
    assert "gone@example.org" in str(kept)
    assert "primary_is_back" in log.read_text()
    sink.sock.close()
