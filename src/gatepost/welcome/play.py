"""The play of `gatepost try`: the article's three mail flows, acted by clients that are not ours.

Each step is acted with smtplib or imaplib against the running server, timed, and told on one line. A step that
did not do what it should turns the play red, and the exit status with it.
"""

import imaplib
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

KNOWN: Final = "127.0.1.10"
UNKNOWN: Final = "127.0.1.20"
LISTED: Final = "127.0.1.66"
TRAPPED: Final = "127.0.1.77"
TRAP: Final = "old-address@gate.example"
PATIENCE_S: Final = 10.0


class NotAsPlanned(Exception):
    """A step did not do what it should; the text says what happened instead."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the actors need to know: addresses, ports, people, files. Times are seconds, scaled."""

    host: str
    ports: dict[str, int]
    ann: str
    joe: str
    password: str
    remote: str
    authority: Path
    sink: Path
    pass_time: float
    scan_time: float
    scale: float
    verify: Callable[[bytes], str]
    """Checks a relayed mail's DKIM signatures against the test zone; returns a sentence, raises NotAsPlanned."""


@dataclass(slots=True)
class Play:
    """Acts the flows one after the other and keeps the score."""

    stage: Stage
    console: Console
    failures: list[str] = field(default_factory=list)
    steps: int = 0

    def act(self) -> bool:
        """Play all three flows; return whether every step did what it should."""
        self._flow("white", "bright_cyan", "a known sender delivers straight through", _WHITE_STATIONS)
        self._white()
        note = f"times run {self.stage.scale:g} times faster than in earnest"
        self._flow("grey and black", "bright_red", f"strangers meet the gate ({note})", _RED_STATIONS)
        self._grey()
        self._black()
        self._flow("outbound", "bright_blue", "our own people send mail out", _BLUE_STATIONS)
        self._outbound()
        self._verdict()
        return not self.failures

    def _white(self) -> None:
        with self._step("smtp 25", f"{KNOWN} is in table nospamd") as say, self._client(KNOWN) as client:
            say(self._deliver(client, "white: straight through"))
        with self._step("imap", f"{self.stage.joe} reads it over TLS") as say:
            say(self._read("white: straight through"))

    def _grey(self) -> None:
        stage = self.stage
        with self._step("gate", f"{UNKNOWN} is new here: greylisted") as say:
            say(self._deferred(UNKNOWN))
        with self._step("gate", "it retries at once, too early") as say:
            say(self._deferred(UNKNOWN))
        with self._step("gate", f"it waits {stage.pass_time:g} s and retries in time") as say:
            time.sleep(stage.pass_time + 0.1)
            say(self._deferred(UNKNOWN) + "  (the retry that counts)")
        with self._step("gate", f"within {stage.scan_time:g} s it is whitelisted, and delivers") as say:
            say(self._delivered_in_time(UNKNOWN, "grey: came back as a mail server does"))
        with self._step("imap", f"{stage.joe} reads it over TLS") as say:
            say(self._read("grey: came back as a mail server does"))

    def _black(self) -> None:
        with self._step("gate", f"{LISTED} is on a list: one letter at a time") as say:
            say(self._stuttered(LISTED))
        with self._step("gate", f"{TRAPPED} writes to the trap {TRAP}") as say:
            say(self._deferred(TRAPPED, recipient=TRAP))
        with self._step("gate", f"from now on {TRAPPED} is black") as say:
            say(self._trapped(TRAPPED))

    def _outbound(self) -> None:
        stage = self.stage
        for port, how in (("submissions", "TLS from the first octet"), ("submission", "STARTTLS")):
            subject, mail = f"blue: by {port}", b""
            with self._step(f"port {stage.ports[port]}", f"{stage.ann} logs in, {how}") as say:
                say(self._submit(port, subject))
            with self._step("relay", f"the MX of {stage.remote} has it") as say:
                mail = self._relayed(subject)
                say(f"{len(mail):,} octets in the sink")
            with self._step("dkim", "the signature, against the key in DNS") as say:
                say(stage.verify(mail))

    @contextmanager
    def _step(self, station: str, what: str) -> Iterator[Callable[[str], None]]:
        """Act one step: print station, what happens, what was said and how long it took."""
        said: list[str] = []
        self.steps += 1
        began = time.perf_counter()
        try:
            yield said.append
            mark, style = "✔", "green"
        except (NotAsPlanned, OSError, smtplib.SMTPException, imaplib.IMAP4.error) as wrong:
            said.append(f"{type(wrong).__name__}: {wrong}")
            self.failures.append(f"{station}: {what}: {wrong}")
            mark, style = "✘", "bold red"
        took = (time.perf_counter() - began) * 1000
        row = Table.grid(padding=(0, 1))
        row.add_column(width=2)
        row.add_column(width=11, style="bold")
        row.add_column(ratio=1)
        row.add_column(justify="right", width=10, style="dim")
        duration = f"{took / 1000:.1f} s" if took >= 1000 else f"{took:.0f} ms"
        row.add_row(Text(mark, style), station, what, duration)
        row.add_row("", "", Text("  ".join(said), "dim italic"), "")
        self.console.print(row)

    def _flow(self, name: str, colour: str, what: str, stations: tuple[str, ...]) -> None:
        line = Text(" ──▸ ", colour).join(Text(station, "bold") for station in stations)
        self.console.print()
        self.console.print(Text.assemble(("━━ ", colour), (name, f"bold {colour}"), (f"  {what}", "default")))
        self.console.print(Text("   ").append_text(line))

    def _verdict(self) -> None:
        self.console.print()
        if not self.failures:
            self.console.print(Text(f"All {self.steps} steps did what they should.", "bold green"))
            return
        self.console.print(Text(f"{len(self.failures)} of {self.steps} steps went wrong:", "bold red"))
        for failure in self.failures:
            self.console.print(Text(f"  {failure}", "red"))

    # --- the actors -----------------------------------------------------------------------------------------

    def _client(self, source: str) -> smtplib.SMTP:
        return smtplib.SMTP(
            self.stage.host, self.stage.ports["mx"], "sender.example", timeout=30, source_address=(source, 0)
        )

    def _deliver(self, client: smtplib.SMTP, subject: str) -> str:
        client.ehlo()
        client.mail("ann@sender.example")
        _expect(client.rcpt(self.stage.joe), 250)
        return _expect(client.data(_mail("ann@sender.example", self.stage.joe, subject)), 250)

    def _deferred(self, source: str, recipient: str = "") -> str:
        client = self._client(source)
        try:
            client.ehlo()
            client.mail("stranger@sender.example")
            client.rcpt(recipient or self.stage.joe)
            return _expect(client.docmd("DATA"), 451)
        finally:
            client.close()

    def _delivered_in_time(self, source: str, subject: str) -> str:
        ends = time.monotonic() + PATIENCE_S
        while True:
            with self._client(source) as client:
                greeting = client.ehlo()[1]
                if b"PIPELINING" in greeting:
                    return self._deliver(client, subject)
            if time.monotonic() > ends:
                raise NotAsPlanned(f"it was not whitelisted within {PATIENCE_S:g} s")
            time.sleep(self.stage.scan_time / 4)

    def _stuttered(self, source: str) -> str:
        with socket.create_connection((self.stage.host, self.stage.ports["mx"]), 30, (source, 0)) as raw:
            began, pieces = time.perf_counter(), 0
            banner = b""
            while not banner.endswith(b"\n"):
                piece = raw.recv(512)
                if not piece:
                    raise NotAsPlanned("the connection was closed")
                banner += piece
                pieces += 1
            took = time.perf_counter() - began
            text = _converse(
                raw, b"HELO x\r\n", b"MAIL FROM:<s@x>\r\n", b"RCPT TO:<y@z>\r\n", b"DATA\r\n", b".\r\n"
            )
        if pieces < len(banner) // 2:
            raise NotAsPlanned(f"the banner came in {pieces} pieces")
        if source not in text or not re.search(r"^4[0-9]0", text):
            raise NotAsPlanned(f"the list's message is missing: {text!r}")
        return f"{len(banner)} letters in {took:.1f} s, then: {text.splitlines()[0]}"

    def _trapped(self, source: str) -> str:
        ends = time.monotonic() + PATIENCE_S
        while True:
            with socket.create_connection((self.stage.host, self.stage.ports["mx"]), 30, (source, 0)) as raw:
                raw.makefile("rb").readline()
                lines = (b"HELO x\r\n", b"MAIL FROM:<s@x>\r\n", b"RCPT TO:<y@z>\r\n", b"DATA\r\n", b".\r\n")
                text = _converse(raw, *lines)
            if "spamtraps" in text:
                return text.splitlines()[0]
            if time.monotonic() > ends:
                raise NotAsPlanned(f"it is still only greylisted: {text!r}")
            time.sleep(self.stage.scan_time / 4)

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.stage.authority))
        context.check_hostname = False  # the certificate is for names, we dial a loopback address
        return context

    def _submit(self, port: str, subject: str) -> str:
        stage, number = self.stage, self.stage.ports[port]
        client: smtplib.SMTP
        if port == "submissions":
            client = smtplib.SMTP_SSL(stage.host, number, context=self._context(), timeout=30)
        else:
            client = smtplib.SMTP(stage.host, number, timeout=30)
            client.starttls(context=self._context())
        with client:
            client.login(stage.ann, stage.password)
            client.mail(stage.ann)
            _expect(client.rcpt(f"friend@{stage.remote}"), 250)
            return _expect(client.data(_mail(stage.ann, f"friend@{stage.remote}", subject)), 250)

    def _relayed(self, subject: str) -> bytes:
        ends = time.monotonic() + PATIENCE_S
        wanted = b"Subject: " + subject.encode()
        while time.monotonic() < ends:
            for path in (self.stage.sink / "new").iterdir():
                mail = path.read_bytes()
                if wanted in mail:
                    return mail
            time.sleep(0.02)
        raise NotAsPlanned(f"nothing arrived within {PATIENCE_S:g} s")

    def _read(self, subject: str) -> str:
        stage = self.stage
        with imaplib.IMAP4_SSL(stage.host, stage.ports["imaps"], ssl_context=self._context(), timeout=30) as client:
            client.login(stage.joe, stage.password)
            client.select("INBOX")
            _, found = client.search(None, "SUBJECT", f'"{subject}"')
            numbers = found[0].split() if found and found[0] else []
            if not numbers:
                raise NotAsPlanned("it is not in INBOX")
            _, data = client.fetch(
                numbers[-1].decode(), "(BODY.PEEK[HEADER.FIELDS (SUBJECT AUTHENTICATION-RESULTS)])"
            )
        part = data[0]
        if not isinstance(part, tuple) or subject.encode() not in part[1]:
            raise NotAsPlanned("IMAP gave something else")
        return f"message {numbers[-1].decode()} of INBOX: {subject}"


def _mail(sender: str, recipient: str, subject: str) -> bytes:
    lines = [f"From: <{sender}>", f"To: <{recipient}>", f"Subject: {subject}", "", "Hello from the play.", ""]
    return "\r\n".join(lines).encode()


def _expect(answer: tuple[int, bytes], code: int) -> str:
    text = answer[1].decode("utf-8", "replace").split("\n")[0]
    if answer[0] != code:
        raise NotAsPlanned(f"expected {code}, got {answer[0]} {text}")
    return f"{answer[0]} {text}"


def _converse(raw: socket.socket, *lines: bytes) -> str:
    """Say each line when the one before was answered; return what the last one was answered."""
    file = raw.makefile("rb")
    answer: list[bytes] = []
    for line in lines:
        raw.sendall(line)
        answer = []
        while True:
            got = file.readline()
            answer.append(got)
            if not got or got[3:4] != b"-":
                break
        if answer[0][:1] in (b"4", b"5"):
            break
    return b"".join(answer).decode("utf-8", "replace")


_WHITE_STATIONS: Final = ("sender", "table nospamd", "smtp 25", "judge", "mailbox", "imap")
_RED_STATIONS: Final = ("sender", "gate", "greylist 451", "retry", "white", "smtp 25", "mailbox")
_BLUE_STATIONS: Final = ("mail program", "465 / 587 auth", "sign", "queue", "relay", "remote MX")
