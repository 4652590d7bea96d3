"""A next hop that does what a test says: a small SMTP or LMTP server on loopback with one behaviour a test.

Answers are given by command; an answer may also be one of DROP (close the connection), HANG (say nothing, stay),
or `Drip(octets, seconds)`. What it was told is kept in `commands`, what it took in `mails`, octet by octet as sent.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

Answer = bytes | str


@dataclass(frozen=True, slots=True)
class Drip:
    """Say `octets` one by one, `pause` seconds between them."""

    octets: bytes
    pause: float


DROP: Final = "drop"
HANG: Final = "hang"
DEFAULTS: Final[Mapping[str, bytes]] = {
    "greeting": b"220 hop.example ESMTP\r\n",
    "HELO": b"250 hop.example\r\n",
    "STARTTLS": b"220 2.0.0 go ahead\r\n",
    "AUTH": b"235 2.7.0 welcome\r\n",
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go on\r\n",
    "END": b"250 2.0.0 taken\r\n",
    "RSET": b"250 2.0.0 ok\r\n",
    "NOOP": b"250 2.0.0 ok\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
}


@dataclass(slots=True)
class Taken:
    """One mail as it came over the wire; `octets` with stuffed dots and without the final dot line."""

    sender: bytes
    recipients: list[bytes]
    octets: bytes
    tls: bool


@dataclass(slots=True)
class NextHop:
    """`answers` by command replace the defaults; `recipients` answers RCPT (and, for LMTP, the end) by address.

    `answers["END"]` may be a list: one answer for each mail in turn. `extensions` follow EHLO's first line.
    """

    answers: Mapping[str, object] = field(default_factory=dict)
    recipients: Mapping[str, bytes] = field(default_factory=dict)
    extensions: tuple[str, ...] = ("PIPELINING", "SIZE 52428800", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN")
    tls: ssl.SSLContext | None = None
    lmtp: bool = False
    host: str = "127.0.0.1"
    port: int = 0
    path: str = ""
    """A Unix socket instead of host and port."""
    commands: list[bytes] = field(default_factory=list)
    mails: list[Taken] = field(default_factory=list)
    sessions: int = 0
    open_now: int = 0
    busy: int = 0
    most_busy: int = 0
    """Mails that waited for the answer to their end at the same time."""
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ends: int = 0

    async def __aenter__(self) -> Self:
        if self.path:
            self._server = await asyncio.start_unix_server(self._accept, self.path, limit=1 << 20)
        else:
            self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=1 << 20)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def addresses(self) -> list[bytes]:
        """Return all recipients of all mails taken."""
        return [recipient for mail in self.mails for recipient in mail.recipients]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        self.open_now += 1
        try:
            await _Conversation(self, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError):
            pass
        finally:
            self.open_now -= 1
            writer.transport.abort()

    def next_end(self) -> object:
        """Return the answer to the next end of a mail."""
        answer = self.answers.get("END", DEFAULTS["END"])
        if isinstance(answer, list):
            self._ends += 1
            return answer[min(self._ends, len(answer)) - 1]
        return answer


class _Dropped(ConnectionError):
    """The script says to close here."""


class _Conversation:
    def __init__(self, hop: NextHop, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hop, self.reader, self.writer = hop, reader, writer
        self.sender = b""
        self.recipients: list[bytes] = []
        self.secure = False

    async def run(self) -> None:
        await self.say(self.hop.answers.get("greeting", DEFAULTS["greeting"]))
        while line := await self.reader.readline():
            self.hop.commands.append(line)
            verb = line.split(b" ")[0].strip().upper().decode()
            if not await self.obey(verb, line.rstrip(b"\r\n")):
                return

    async def say(self, answer: object) -> bytes:
        """Give one answer and return it."""
        if answer == DROP:
            raise _Dropped
        if answer == HANG:
            await asyncio.sleep(3600)
        if isinstance(answer, Drip):
            for octet in answer.octets:
                self.writer.write(bytes((octet,)))
                await asyncio.sleep(answer.pause)
            return answer.octets
        assert isinstance(answer, bytes)
        self.writer.write(answer)
        await self.writer.drain()
        return answer

    def scripted(self, verb: str) -> object:
        if verb in self.hop.answers:
            return self.hop.answers[verb]
        if verb in ("EHLO", "LHLO"):
            lines = ["hop.example", *self.hop.extensions]
            if self.hop.tls is not None and not self.secure and "STARTTLS" not in lines:
                lines.append("STARTTLS")
            return b"".join(
                b"250%c%s\r\n" % (0x20 if at == len(lines) else 0x2D, line.encode())
                for at, line in enumerate(lines, 1)
            )
        return DEFAULTS.get(verb, b"500 5.5.1 what?\r\n")

    async def obey(self, verb: str, line: bytes) -> bool:
        """Do one command; False ends the conversation."""
        if verb == "RCPT":
            return await self.recipient(line)
        if verb == "DATA" and not self.recipients:
            answer = await self.say(self.hop.answers.get("DATA", b"503 5.5.1 no recipients\r\n"))
            if answer.startswith(b"354"):
                await self.mail()
            return not answer.startswith(b"421")
        if verb == "BDAT":
            taken = await self.reader.readexactly(int(line.split()[1]))
            await self.end(Taken(self.sender, list(self.recipients), taken, self.secure), self.hop.next_end())
            return True
        answer = await self.say(self.scripted(verb))
        if answer.startswith(b"421") or verb == "QUIT":
            return False
        if verb == "MAIL" and answer.startswith(b"250"):
            self.sender, self.recipients = line[10:], []
        elif verb == "RSET":
            self.recipients = []
        elif verb == "STARTTLS" and answer.startswith(b"220") and self.hop.tls is not None:
            await self.writer.start_tls(self.hop.tls)
            self.secure = True
        elif verb == "AUTH" and answer.startswith(b"334"):
            for further in (b"334 UGFzc3dvcmQ6\r\n", b"235 2.7.0 welcome\r\n"):
                self.hop.commands.append(await self.reader.readline())
                await self.say(further)
        elif verb == "DATA" and answer.startswith(b"354"):
            await self.mail()
        return True

    async def recipient(self, line: bytes) -> bool:
        address = line[8:].split(b">")[0].lstrip(b"<").decode()
        answer = await self.say(self.hop.recipients.get(address, self.scripted("RCPT")))
        if answer.startswith(b"2"):
            self.recipients.append(line[8:])
        return not answer.startswith(b"421")

    async def mail(self) -> None:
        octets = b""
        while not (octets == b".\r\n" or octets.endswith(b"\r\n.\r\n")):
            more = await self.reader.read(65_536)
            if not more:
                return
            octets += more
        taken = Taken(self.sender, list(self.recipients), octets[:-3], self.secure)
        answer = self.hop.next_end()
        self.hop.busy += 1
        self.hop.most_busy = max(self.hop.most_busy, self.hop.busy)
        try:
            await self.end(taken, answer)
        finally:
            self.hop.busy -= 1
        self.recipients = []

    async def end(self, taken: Taken, answer: object) -> None:
        if self.hop.lmtp:
            for recipient in taken.recipients:
                address = recipient.split(b">")[0].lstrip(b"<").decode()
                await self.say(self.hop.answers.get(f"END {address}", answer))
            self.hop.mails.append(taken)
        elif isinstance(answer, bytes | Drip):
            if (answer if isinstance(answer, bytes) else answer.octets).startswith(b"2"):
                self.hop.mails.append(taken)
            await self.say(answer)
        else:
            if answer == DROP:
                self.hop.mails.append(taken)  # it took the mail and died before it could say so
            await self.say(answer)
