"""spamd's dialogue (spamd.8, OpenBSD): says yes to everything until DATA, then no.

    GREETED --HELO--> HELLO --MAIL--> MAIL --RCPT--> RCPT --DATA--> grey: 451 and the end, no 354
                                                                    black: 354, BODY until `.` or ten lines
MAIL and RCPT are answered in any phase; every RCPT after a MAIL is an Offer. The 21st unknown command, and the
body's end, are answered with the final reply. Lines are taken one by one, also when they come in one segment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

LINE_MAX: Final = 8191
VALUE_MAX: Final = 1023
BAD_COMMANDS_MAX: Final = 20
BODY_LINES_MAX: Final = 10
DEFAULT_NAME: Final = "spamd IP-based SPAM blocker"
GREY_REPLY: Final = b"451 Temporary failure, please try again later.\r\n"
_FALLBACK: Final = (
    "Sorry %A\nYou are trying to send mail from an address listed by one\n"
    "or more IP-based registries as being a SPAM source.\n"
)
_ESCAPE: Final = re.compile(r"%A|%%|\\\\|\\n|\\\"")


class Phase(Enum):
    """Where a client stands."""

    GREETED = "greeted"
    HELLO = "hello"
    MAIL = "mail"
    RCPT = "rcpt"
    BODY = "body"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Say:
    """Octets to send; `close`: they are the last."""

    octets: bytes
    close: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A tuple for the greylist: values as the client wrote them, angle brackets kept."""

    helo: bytes
    sender: bytes
    recipient: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A From:, To: or Subject: line of a body, for the verbose log."""

    line: bytes


Event = Say | Offer | Header


class Dialogue:
    """One client. `messages` are those of all lists it is on, in their order; none means that it is grey."""

    __slots__ = (
        "_bad",
        "_body_lines",
        "_buffer",
        "_final",
        "_helo",
        "_host",
        "_in_body",
        "_sender",
        "black",
        "phase",
    )

    def __init__(
        self, host: str, *, ip: str, messages: Sequence[str] = (), black: bool = False, code: int = 450
    ) -> None:
        self._host = host.encode()
        self._final = black_reply(messages, ip, code) if black else GREY_REPLY
        self._buffer = b""
        self._helo = b""
        self._sender = b""
        self._bad = 0
        self._body_lines = 0
        self._in_body = False
        self.black = black
        self.phase = Phase.GREETED

    def greet(self, date: str, name: str = DEFAULT_NAME) -> bytes:
        """Return the banner; `date` in ctime's form."""
        return b"220 " + self._host + f" ESMTP {name}; {date}\r\n".encode()

    def receive(self, octets: bytes) -> list[Event]:
        """Take what the client sent; after a Say with `close` nothing is answered."""
        events: list[Event] = []
        self._buffer += octets
        while self.phase is not Phase.OVER:
            end = self._buffer.find(b"\n")
            if end < 0 and len(self._buffer) < LINE_MAX:
                break
            end = LINE_MAX - 1 if end < 0 or end >= LINE_MAX else end
            line, self._buffer = self._buffer[: end + 1].rstrip(b"\r\n"), self._buffer[end + 1 :]
            events += self._body(line) if self.phase is Phase.BODY else self._command(line)
        else:
            self._buffer = b""
        return events

    def _command(self, line: bytes) -> list[Event]:
        verb = line[:4].upper()
        match verb:
            case b"HELO" | b"EHLO":
                return self._hello(line)
            case b"MAIL":
                self._sender = _after_colon(line) or self._sender
                self.phase = Phase.MAIL
                return [Say(b"250 You are about to try to deliver spam. Your time will be spent, for nothing.\r\n")]
            case b"RCPT":
                return self._rcpt(line)
            case b"DATA":
                return self._data()
            case b"NOOP":
                return [Say(b"250 2.0.0 OK I did nothing\r\n")]
            case b"RSET" if self.phase is not Phase.GREETED:
                self.phase = Phase.HELLO
                return [Say(b"250 Ok to start over.\r\n")]
            case b"QUIT":
                return self._end(b"221 " + self._host + b"\r\n")
            case _:
                self._bad += 1
                if self._bad > BAD_COMMANDS_MAX:
                    return self._end(self._final)
                return [Say(b"500 5.5.1 Command unrecognized\r\n")]

    def _hello(self, line: bytes) -> list[Event]:
        words = line[4:].split()
        if not words:
            return [Say(b"501 helo requires domain name.\r\n")]
        self._helo = words[0][:VALUE_MAX]
        self.phase = Phase.HELLO
        return [Say(b"250 Hello, spam sender. Pleased to be wasting your time.\r\n")]

    def _rcpt(self, line: bytes) -> list[Event]:
        recipient = _after_colon(line)
        self.phase = Phase.RCPT
        events: list[Event] = []
        if recipient and self._sender:
            events.append(Offer(self._helo, self._sender, recipient))
        return [*events, Say(b"250 This is hurting you more than it is hurting me.\r\n")]

    def _data(self) -> list[Event]:
        if not self.black:
            return self._end(self._final)
        self.phase = Phase.BODY
        return [Say(b'354 Enter spam, end with "." on a line by itself\r\n')]

    def _body(self, line: bytes) -> list[Event]:
        if line == b".":
            return self._end(self._final)
        if not self._in_body:
            self._in_body = not line
            shown = line[:8].lower().startswith((b"from:", b"to:", b"subject:"))
            return [Header(line)] if shown else []
        self._body_lines += 1
        return self._end(self._final) if self._body_lines >= BODY_LINES_MAX else []

    def _end(self, reply: bytes) -> list[Event]:
        self.phase = Phase.OVER
        return [Say(reply, close=True)]


def black_reply(messages: Sequence[str], ip: str, code: int = 450) -> bytes:
    """Return the multi-line refusal made of all lists' messages, each expanded and on lines of its own."""
    lines: list[str] = []
    for message in messages or (_FALLBACK,):
        text = expand(message, ip)
        lines += text.removesuffix("\n").split("\n")
    last = len(lines) - 1
    wire = (f"{code}{' ' if at == last else '-'}{line}\r\n" for at, line in enumerate(lines))
    return "".join(wire).encode("ascii", "replace")


def expand(message: str, ip: str) -> str:
    """Expand a list's message (spamd.conf's msg): %A, %%, \\\\, \\n and \\"; enclosing quotes are dropped."""
    if len(message) > 1 and message[0] == message[-1] == '"':
        message = message[1:-1]
    words = {"%A": ip, "%%": "%", "\\\\": "\\", "\\n": "\n", '\\"': '"'}
    return _ESCAPE.sub(lambda found: words[found[0]], message)


def _after_colon(line: bytes) -> bytes:
    """Return what stands behind the first colon up to a blank; the ESMTP parameters behind it are dropped."""
    words = line.partition(b":")[2].split()
    return words[0][:VALUE_MAX] if words else b""
