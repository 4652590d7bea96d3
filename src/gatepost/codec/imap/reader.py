"""Cuts a client's stream into whole commands, literals included (RFC 9051 §4.3, RFC 7888).

A command's octets stay as they came, `{n}` and CRLF before each literal, and are parsed by `tokens`. Limits are
checked when a literal is announced, before any of it is taken.

The message of an APPEND is no part of its command: it is announced (`Message`), handed on in pieces as it arrives
(`Piece`), and the command that follows holds its `{n}` and CRLF alone.
"""

import re
from dataclasses import dataclass
from typing import Final

_LITERAL: Final = re.compile(rb"~?\{([0-9]+)(\+?)\}\r\n\Z")
_DIGITS_MAX: Final = 19
"""A size of more digits is too big without being read as a number."""
_NAME_OF_APPEND: Final = re.compile(rb"[^ ]+ [A-Za-z]+ ~?\{[0-9]+\+?\}\r\n\Z")
"""An APPEND whose mailbox is the literal; the message comes behind a mailbox."""

_TAG: Final = re.compile(rb"([!#$&',./0-9:;<=>?@A-Z\[\]^_`a-z|}~-]{1,64}) (?:UID )?([A-Za-z]{1,20})")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a command may cost; octets. `append` is for the message of an APPEND."""

    line: int
    literal: int
    total: int
    literals: int
    append: int = 0


BEFORE_LOGIN: Final = Bounds(line=8 << 10, literal=4 << 10, total=16 << 10, literals=10)
AFTER_LOGIN: Final = Bounds(line=64 << 10, literal=100 << 10, total=1 << 20, literals=1000, append=50 << 20)


@dataclass(frozen=True, slots=True)
class Whole:
    """One command, without its final CRLF."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class GoOn:
    """A synchronising literal was announced and fits: say so (`+`)."""


@dataclass(frozen=True, slots=True)
class Message:
    """The message of an APPEND was announced and is not too long: `refuse` it, or take its pieces.

    `synchronising`: the client waits for `+`, and after a refusal it does not send the message.
    """

    tag: bytes
    size: int
    synchronising: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """The next octets of that message."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class TooBig:
    """A limit was met. `fatal`: the client sends the octets whatever we say, so the connection must end."""

    tag: bytes
    text: str
    fatal: bool


Event = Whole | GoOn | Message | Piece | TooBig


class Reader:
    """One client's stream. `bounds` may be changed between commands (at login)."""

    def __init__(self, bounds: Bounds = BEFORE_LOGIN) -> None:
        self.bounds = bounds
        self._buffer = bytearray()
        self._command = bytearray()
        self._awaited = 0
        self._message = False
        self._left = 0
        self._literals = 0
        self._over = False

    @property
    def pending(self) -> bool:
        """Tell whether octets wait that are not yet a command."""
        return bool(self._buffer or self._command)

    @property
    def held(self) -> int:
        """Return how many octets wait."""
        return len(self._buffer)

    def feed(self, octets: bytes) -> None:
        """Take octets; `next` and `take_line` look for commands and lines in them."""
        self._buffer += octets

    def next(self) -> Event | None:
        """Return the next event, None when octets are missing; any split of the input gives the same events.

        Only where a message is cut into pieces depends on the split.

        One at a time, because a command changes what the octets behind it are: STARTTLS forbids them, IDLE and
        AUTHENTICATE take lines, login raises the bounds.
        """
        if self._left:
            return self._piece() if self._buffer else None
        while not self._over and (line := self._line()) is not None:
            if isinstance(line, TooBig):
                return line
            announced = _LITERAL.search(line)
            if announced is None:
                whole = Whole(bytes(self._command + line[:-2]))
                self._reset()
                return whole
            event = self._literal(line, announced[1], synchronising=not announced[2])
            if event is not None:
                return event
        return None

    def refuse(self) -> None:
        """Forget the command whose Message was just announced and which the client does not go on with."""
        self._reset()

    def take_line(self) -> bytes | None:
        """Take one line that is no command (AUTHENTICATE's answers, DONE); None until it is whole."""
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _piece(self) -> Piece:
        octets = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(octets)
        return Piece(octets)

    def _line(self) -> bytes | TooBig | None:
        """Take the literal that is awaited, and the line behind it with its CRLF; None until they are there."""
        if self._awaited:
            if len(self._buffer) < self._awaited:
                return None
            self._command += self._buffer[: self._awaited]
            del self._buffer[: self._awaited]
            self._awaited = 0
        end = self._buffer.find(b"\r\n")
        shortest = end if end >= 0 else len(self._buffer) - self._buffer.endswith(b"\r")
        if shortest > self.bounds.line:
            return self._end("line too long", fatal=True)
        if end < 0:
            return None
        line = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 2]
        return line

    def _literal(self, line: bytes, digits: bytes, *, synchronising: bool) -> Event | None:
        self._command += line
        self._literals += 1
        message = self._message_of_append()
        most = self.bounds.append if message else self.bounds.literal
        size = int(digits) if len(digits) <= _DIGITS_MAX else most + 1
        total = len(self._command) + (0 if message else size)
        if size > most or total > self.bounds.total or self._literals > self.bounds.literals:
            return self._end("literal too big", fatal=not synchronising)
        if message:
            self._message, self._left = True, size
            return Message(message, size, synchronising)
        self._awaited = size
        return GoOn() if synchronising else None

    def _message_of_append(self) -> bytes:
        """Return the tag of an APPEND whose message is what was announced last; empty for any other literal."""
        named = _TAG.match(self._command) if self.bounds.append else None
        if named is None or named[2].upper() != b"APPEND" or self._message:
            return b""
        return b"" if _NAME_OF_APPEND.match(self._command) else named[1]

    def _end(self, text: str, *, fatal: bool) -> TooBig:
        named = _TAG.match(bytes(self._command[:100]))
        self._over = fatal
        if fatal:
            self._buffer.clear()
        self._reset()
        return TooBig(named[1] if named else b"*", text, fatal)

    def _reset(self) -> None:
        self._command = bytearray()
        self._awaited = self._left = self._literals = 0
        self._message = False
