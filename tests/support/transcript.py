"""Transcripts of line protocols: text files that are played against a session in memory or a real server.

# a comment
: port submission            a fact about the session, for whoever sets it up
c: EHLO client.example       the client sends this line and CRLF; lines that follow each other go together
raw: a\\n.\\n                  the client sends exactly these octets (Python's escapes)
s: 250-…                     one line of the server; … stands for anything
s*: 250 …                    one whole reply of any number of lines; its last line is compared
starttls                     both sides change to TLS
eof                          the client ends the connection
closed                       the server has ended it
"""

import asyncio
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.support.wire import MemoryWire

REPLY_TIME: Final = 15.0  # s, with a real server


@dataclass(frozen=True, slots=True)
class Say:
    """The client sends these octets together."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Hear:
    """The server says a line that matches; `whole`: as the last line of a reply."""

    pattern: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """`starttls`, `eof` or `closed`."""

    word: str


Step = Say | Hear | Turn


@dataclass(frozen=True, slots=True)
class Transcript:
    """A parsed file."""

    path: Path
    facts: dict[str, str]
    steps: tuple[Step, ...]


@dataclass
class _Parse:
    facts: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def say(self, octets: bytes) -> None:
        if self.steps and isinstance(self.steps[-1], Say):
            octets = self.steps.pop().octets + octets  # type: ignore[union-attr]  # it was looked at
        self.steps.append(Say(octets))


class Peer(Protocol):
    """The client's end of a connection to what is tested."""

    async def send(self, octets: bytes) -> None: ...
    async def line(self) -> bytes: ...
    async def start_tls(self) -> None: ...
    async def end(self) -> None: ...
    async def closed(self) -> bool: ...


def read(path: Path) -> Transcript:
    """Parse a transcript; ValueError names the line that is none."""
    parse = _Parse()
    for number, line in enumerate(path.read_text().split("\n"), 1):
        word, colon, rest = line.partition(":")
        rest = rest.removeprefix(" ")
        match word:
            case "c" if colon:
                parse.say(rest.encode() + b"\r\n")
            case "raw" if colon:
                parse.say(rest.encode().decode("unicode_escape").encode("latin-1"))
            case "s" | "s*" if colon:
                parse.steps.append(Hear(rest, whole=word == "s*"))
            case "starttls" | "eof" | "closed":
                parse.steps.append(Turn(word))
            case "" if colon:
                key, _, value = rest.partition(" ")
                parse.facts[key] = value
            case _ if line.startswith("#") or not line.strip():
                pass
            case _:
                raise ValueError(f"{path.name}:{number}: {line!r} is no line of a transcript")
    return Transcript(path, parse.facts, tuple(parse.steps))


def transcripts(folder: Path) -> list[Transcript]:
    """Return all transcripts below a folder, in order."""
    return [read(path) for path in sorted(folder.rglob("*.txt"))]


async def play(transcript: Transcript, peer: Peer, *, octets_at_once: int = 1 << 20) -> None:
    """Play a transcript against a server; AssertionError tells where it differs."""
    for at, step in enumerate(transcript.steps, 1):
        where = f"{transcript.path.name}, step {at}: {step}"
        match step:
            case Say(octets=octets):
                for begin in range(0, len(octets), octets_at_once):
                    await peer.send(octets[begin : begin + octets_at_once])
            case Hear(pattern=pattern, whole=whole):
                line = await peer.line()
                while whole and line[3:4] == b"-":
                    line = await peer.line()
                assert _matches(pattern, line), f"{where}: heard {line!r}"
            case Turn(word="starttls"):
                await peer.start_tls()
            case Turn(word="eof"):
                await peer.end()
            case Turn():
                assert await peer.closed(), f"{where}: it is open, or said more"


def _matches(pattern: str, line: bytes) -> bool:
    text = ".*".join(re.escape(part) for part in pattern.split("…"))
    return re.fullmatch(text, line.decode("utf-8", "replace"), re.DOTALL) is not None


class MemoryPeer:
    """A client at the other end of a MemoryWire."""

    def __init__(self, wire: MemoryWire) -> None:
        self._wire = wire
        self._heard = b""

    async def send(self, octets: bytes) -> None:
        """Send, and let the session act on it."""
        await self._wire.settle()
        self._wire.send(octets)
        await self._wire.settle()

    async def line(self) -> bytes:
        """Return the next line the session said; fails when it waits for us without one."""
        await self._wire.settle()
        self._heard += self._wire.look()
        line, crlf, self._heard = self._heard.partition(b"\r\n")
        assert crlf, f"no line came, only {line!r}"
        return line

    async def start_tls(self) -> None:
        """See that the session has changed to TLS."""
        await self._wire.settle()
        assert self._wire.tls is not None
        assert not self._heard

    async def end(self) -> None:
        """Hang up."""
        await self._wire.settle()
        self._wire.hang_up()

    async def closed(self) -> bool:
        """Tell whether the session has ended and everything it said was heard."""
        await self._wire.settle()
        return self._wire.closed and not self._heard + self._wire.look()


class TcpPeer:
    """A client of a real server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: ssl.SSLContext) -> None:
        self._reader, self._writer, self._tls = reader, writer, tls

    async def send(self, octets: bytes) -> None:
        """Send in a segment of its own, as far as the kernel lets us."""
        self._writer.write(octets)
        await self._writer.drain()

    async def line(self) -> bytes:
        """Return the next line."""
        async with asyncio.timeout(REPLY_TIME):
            line = await self._reader.readline()
        assert line.endswith(b"\r\n"), f"no line came, only {line!r}"
        return line[:-2]

    async def start_tls(self) -> None:
        """Shake hands."""
        await self._writer.start_tls(self._tls)

    async def end(self) -> None:
        """Hang up."""
        self._writer.close()

    async def closed(self) -> bool:
        """Tell whether the server has ended the connection without another word."""
        try:
            async with asyncio.timeout(REPLY_TIME):
                return await self._reader.read(1) == b""
        except ConnectionError:
            return True


async def play_over_tcp(
    transcript: Transcript, host: str, port: int, *, implicit_tls: bool = False, octets_at_once: int = 1 << 20
) -> None:
    """Play a transcript against a server that listens; any certificate will do."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=tls if implicit_tls else None)
    try:
        await play(transcript, TcpPeer(reader, writer, tls), octets_at_once=octets_at_once)
    finally:
        writer.close()


def named(found: list[Transcript]) -> Iterator[str]:
    """Return test ids."""
    return (each.path.stem for each in found)
