"""A real `gatepost serve` for tests of its life: made as an operator makes one, by its own commands."""

import contextlib
import json
import os
import random
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

USER: Final = "bob@here.example"
PASSWORD: Final = "correct horse"
COMMANDS: Final = """
import json, sys
from gatepost.cli.commands import app
for words in json.loads(sys.argv[1]):
    sys.exit(1) if app(words, standalone_mode=False) else None
"""
HEAD: Final = b"From: Ann <ann@sender.example>\r\nTo: bob@here.example\r\nSubject: "


def until(holds: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    """Wait for something to hold; fail when it does not within `seconds`."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"after {seconds} s: {what()}"
        time.sleep(0.02)


def _bind(sock: socket.socket) -> None:
    for _ in range(100):
        try:
            sock.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
        except OSError:
            continue
        return
    raise OSError("no port is free")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, from below those that the kernel gives to clients of other tests."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            _bind(each)
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Served:
    """One server: `with Served(folder, workers=2) as server`."""

    folder: Path
    workers: int = 2
    settings: str = ""
    """More of gatepost.toml."""
    ports: dict[str, int] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    lines: "list[Line]" = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.folder / "gatepost.toml"

    def __enter__(self) -> Self:
        kinds = ("mx", "imap", "imaps")
        self.ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
        self.write_config(self.settings)
        (self.folder / "password").write_text(PASSWORD)
        self.populate(USER)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines:
            line.close()
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def write_config(self, settings: str) -> None:
        """Write gatepost.toml with `settings` at its end."""
        listeners = "".join(
            f'[listen.{kind}]\nkind = "{kind}"\naddress = ["127.0.0.1:{port}"]\n'
            for kind, port in self.ports.items()
        )
        server = f'hostname = "mx.here.example"\ndata_dir = "{self.folder}/data"\nworkers = {self.workers}\n'
        self.config.write_text(f"[server]\n{server}{listeners}{settings}")

    def command(self, *words: str, status: int = 0) -> str:
        """Run a command of gatepost's; return what it printed."""
        argv = [sys.executable, "-m", "gatepost", *words, "-c", str(self.config)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=140)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def populate(self, *users: str) -> None:
        """Add users and their domains by the server's own commands, in one process: each takes long to begin."""
        ends = ["-c", str(self.config)]
        lines = [["domain", "add", domain, *ends] for domain in sorted({user.partition("@")[2] for user in users})]
        lines += [["user", "add", user, "--password-file", str(self.folder / "password"), *ends] for user in users]
        self.run_here([sys.executable, "-c", COMMANDS, json.dumps(lines)])

    def run_here(self, argv: list[str]) -> str:
        """Run a program to its good end on the server's machine; return what it said."""
        done = subprocess.run(argv, capture_output=True, text=True, timeout=140)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self) -> None:
        """Start it and wait until it serves."""
        argv = [sys.executable, "-m", "gatepost", "serve", "-c", str(self.config)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(self.serves, 40, self.last_words)

    def serves(self) -> bool:
        """Tell whether the supervisor says so of this very process."""
        assert self.process is not None
        status = self.status()
        return status.get("state") == "serving" and status.get("pid") == self.process.pid

    def status(self) -> dict[str, Any]:
        """Return what the supervisor wrote last."""
        try:
            status: dict[str, Any] = json.loads((self.folder / "data" / "run" / "status.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return status

    def last_words(self) -> str:
        """Return the end of the log: for whoever reads a failure."""
        return (self.folder / "server.log").read_text()[-4000:]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's records of one event."""
        path = self.folder / "data" / "log" / "gatepost.log"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [record for record in records if record["event"] == name]

    def said(self, text: str) -> int:
        """Count the lines of standard error, the supervisor's among them, that match a pattern."""
        return len(re.findall(text, (self.folder / "server.log").read_text()))

    def pids(self, role: str) -> list[int]:
        """Return the server's processes whose name begins with `role`."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                name = (entry / "comm").read_text() if words else ""
            except OSError:
                continue
            if str(self.config).encode() in words and name.startswith(role):
                found.append(int(entry.name))
        return found

    def line(self, kind: str) -> "Line":
        """Return a connection that is closed with the server, if not before."""
        line = Line(self.ports[kind])
        self.lines.append(line)
        return line

    def smtp(self) -> "Line":
        """Return a client of port 25 that has said EHLO."""
        client = self.line("mx")
        assert client.reply().startswith(b"220")
        client.say(b"EHLO client.example", b"250")
        return client

    def imap(self) -> "Line":
        """Return a client of port 143 that has logged in over STARTTLS and selected INBOX."""
        client = self.line("imap")
        client.line()
        client.send(b"a STARTTLS\r\n")
        client.until(b"a OK")
        client.start_tls()
        client.send(b'b LOGIN %s "%s"\r\n' % (USER.encode(), PASSWORD.encode()))
        client.until(b"b OK")
        client.send(b"c SELECT INBOX\r\n")
        client.until(b"c OK")
        return client

    def subjects(self) -> list[str]:
        """Return the subjects of all mails in INBOX."""
        with contextlib.closing(self.imap()) as client:
            client.send(b"d UID FETCH 1:* (BODY.PEEK[HEADER.FIELDS (SUBJECT)])\r\n")
            lines = client.until(b"d OK")
        return [line[9:].decode() for line in lines if line.startswith(b"Subject: ")]

    def certificate(self) -> bytes:
        """Return what port 993 shows, as DER."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.ports["imaps"]), 10) as raw,
            context.wrap_socket(raw) as connection,
        ):
            shown = connection.getpeercert(binary_form=True)
        assert shown is not None
        return shown


class Line:
    """A client that speaks lines, with all its pauses in the test's hand."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self._socket: socket.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self._socket.makefile("rb")

    def start_tls(self) -> None:
        """Wrap the connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._file.close()
        self._socket = context.wrap_socket(self._socket)
        self._file = self._socket.makefile("rb")

    def send(self, octets: bytes) -> None:
        """Send as it is."""
        self._socket.sendall(octets)

    def line(self) -> bytes:
        """Return the next line without its end; EOFError at the end of the connection."""
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"the connection ended at {line!r}")
        return line.rstrip(b"\r\n")

    def octets(self, count: int) -> bytes:
        """Return the next `count` octets."""
        return self._file.read(count)

    def reply(self) -> bytes:
        """Return the last line of a reply."""
        while True:
            line = self.line()
            if line[3:4] != b"-":
                return line

    def say(self, command: bytes, expected: bytes) -> bytes:
        """Say a command; return its reply, which begins with `expected`."""
        self.send(command + b"\r\n")
        reply = self.reply()
        assert reply.startswith(expected), reply
        return reply

    def until(self, tagged: bytes) -> list[bytes]:
        """Return the lines up to the one that begins with `tagged`."""
        lines = []
        while True:
            line = self.line()
            lines.append(line)
            if line.startswith(tagged):
                return lines

    def envelope(self) -> None:
        """Say everything up to DATA."""
        self.say(b"MAIL FROM:<ann@sender.example>", b"250")
        self.say(b"RCPT TO:<%s>" % USER.encode(), b"250")
        self.say(b"DATA", b"354")

    def mail(self, subject: str) -> bytes:
        """Deliver a mail; return the reply to its end."""
        self.envelope()
        return self.say(HEAD + subject.encode() + b"\r\n\r\nHello\r\n.", b"250")

    def ended(self) -> bool:
        """Tell whether the server has closed the connection; waits for it."""
        try:
            return self._file.read() is not None
        except ConnectionError:
            return True

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still; it is let go at the end, if it lives."""
    os.kill(pid, 19)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 18)
