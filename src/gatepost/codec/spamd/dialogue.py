"""spamd's dialogue (spamd.8, OpenBSD): says yes to everything until DATA, then no.

    CONNECTED --the banner is said--> GREETED
    GREETED --HELO--> HELLO --MAIL--> MAIL --RCPT--> RCPT --DATA--> grey: 451 and the end, no 354
                                                                    black: 354, BODY until `.` or ten lines
    any --QUIT, the 21st unknown command--> OVER
    GREETED --EHLO, where TLS is to be had--> OFFERED --STARTTLS--> StartTls --shaken--> GREETED, now in TLS

MAIL, RCPT and DATA are answered in any phase before BODY; HELO only in the first and RSET only after it, as spamd
does; STARTTLS only as the command behind that EHLO, and never of a black client. What a client sent behind
STARTTLS is cut off as a flood is: it would be plain text taken for encrypted (CVE-2011-0411). Every RCPT after a
MAIL is an Offer. A client is answered one command at a time: after a Say the dialogue waits until it is told that
the octets are `said`, and what came meanwhile waits in a bounded buffer. So pipelined commands are each answered
(spamd swallows them), and a client that never reads costs 64 KiB.

As in spamd a bare LF ends a line. Nothing said here is ever stored or passed on, so there is nothing to smuggle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from gatepost.codec.spamd.message import black_reply

LINE_MAX: Final = 8191  # spamd's buffer: as much without a line feed is a command
VALUE_MAX: Final = 1023
BAD_COMMANDS_MAX: Final = 20
BODY_LINES_MAX: Final = 10
HEADER_LINES_MAX: Final = 1000  # spamd has none: its clients may write a header for ever
INBOX_MAX: Final = 65_536
DEFAULT_NAME: Final = "spamd IP-based SPAM blocker"
HELLO: Final = b"250 Hello, spam sender. Pleased to be wasting your time.\r\n"
MAIL: Final = b"250 You are about to try to deliver spam. Your time will be spent, for nothing.\r\n"
RCPT: Final = b"250 This is hurting you more than it is hurting me.\r\n"
DATA: Final = b'354 Enter spam, end with "." on a line by itself\r\n'
NOOP: Final = b"250 2.0.0 OK I did nothing\r\n"
RSET: Final = b"250 Ok to start over.\r\n"
STARTTLS: Final = b"220 glad you want to burn more CPU cycles on your spam\r\n"
NO_NAME: Final = b"501 helo requires domain name.\r\n"
UNKNOWN: Final = b"500 5.5.1 Command unrecognized\r\n"
GREY_REPLY: Final = b"451 Temporary failure, please try again later.\r\n"
TOO_EARLY_REPLY: Final = b"554 5.5.1 You spoke before you were greeted\r\n"


class Phase(Enum):
    """Where a client stands."""

    CONNECTED = "connected"
    GREETED = "greeted"
    OFFERED = "offered"
    HELLO = "hello"
    MAIL = "mail"
    RCPT = "rcpt"
    BODY = "body"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Say:
    """Octets to send, then call `said`; `close`: they are the last."""

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
    """A From:, To: or Subject: line of a black client's mail, for the verbose log."""

    line: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A line of its body that is not empty, for the verbose log."""

    line: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """The go-ahead is said: shake hands now. Nothing of the client's is left unread."""


@dataclass(frozen=True, slots=True)
class TooEarly:
    """The client spoke before its banner was said: no mail server does."""


@dataclass(frozen=True, slots=True)
class Flooded:
    """More came than a client may send without waiting for answers: cut it off."""


Event = Say | Offer | Header | Body | StartTls | TooEarly | Flooded


_Refusal = tuple[Sequence[str], str, int]
"""A black client's messages, its address and the code: what `black_reply` makes its final reply of."""


class Tls(Enum):
    """How far a client is with TLS."""

    NONE = "none"
    OFFERED = "offered"
    """It is to be had; whether the client was told so is the phase's matter."""
    AGREED = "agreed"
    ON = "on"


class Dialogue:
    """One client. `messages` are those of all lists that a black one is on, in their order.

    `starttls`: TLS is to be had. `sinks`: a mail is listened to before it is refused, which black clients always
    get, and grey ones where there is no greylist (spamd -b).
    """

    __slots__ = (
        "_at",
        "_bad",
        "_final",
        "_helo",
        "_host",
        "_in_body",
        "_inbox",
        "_lines",
        "_owed",
        "_recipient",
        "_sender",
        "_sinks",
        "_tls",
        "black",
        "phase",
    )

    def __init__(
        self,
        host: str,
        *,
        ip: str,
        messages: Sequence[str] = (),
        black: bool = False,
        code: int = 450,
        starttls: bool = False,
        sinks: bool = False,
    ) -> None:
        self._host = host
        self._final: bytes | _Refusal = (messages, ip, code) if black else GREY_REPLY
        self._sinks = black or sinks
        self._tls = Tls.OFFERED if starttls and not black else Tls.NONE
        self._inbox = b""
        self._at = 0
        self._owed = True  # the banner
        self._helo = self._sender = self._recipient = b""
        self._bad = self._lines = 0
        self._in_body = False
        self.black = black
        self.phase = Phase.CONNECTED

    def greet(self, date: str, name: str = DEFAULT_NAME) -> bytes:
        """Return the banner; `date` in ctime's form. Until it is `said`, whoever speaks is TooEarly."""
        return _banner(self._host, name, date)

    @property
    def in_tls(self) -> bool:
        """Tell whether hands were shaken."""
        return self._tls is Tls.ON

    @property
    def over(self) -> bool:
        """Tell whether the last Say was given."""
        return self.phase is Phase.OVER

    def refuse_early(self) -> None:
        """Answer the first command of a client that was TooEarly with a no, and end."""
        self._final = TOO_EARLY_REPLY
        self._bad = BAD_COMMANDS_MAX + 1

    def receive(self, octets: bytes) -> list[Event]:
        """Take what the client sent, up to the first thing to say; what comes after the last is dropped."""
        if self.phase is Phase.OVER:
            return []
        first = self.phase is Phase.CONNECTED and not self._inbox
        self._inbox = self._inbox[self._at :] + octets if self._inbox else octets
        self._at = 0
        if not self._owed:
            return self._proceed()
        if len(self._inbox) > INBOX_MAX:
            self._end(b"")
            return [Flooded()]
        return [TooEarly()] if first else []

    def said(self) -> list[Event]:
        """Learn that the banner or the last Say was sent, and go on with what came meanwhile."""
        self._owed = False
        if self.phase is Phase.CONNECTED:
            self.phase = Phase.GREETED
        if self._tls is Tls.AGREED:
            return [self._start_tls()]
        return self._proceed()

    def _proceed(self) -> list[Event]:
        events: list[Event] = []
        while not self._owed and self.phase is not Phase.OVER:
            line = self._next_line()
            if line is None:
                break
            if self.phase is Phase.BODY:
                self._body(line, events)
            else:
                self._command(line, events)
        return events

    def _next_line(self) -> bytes | None:
        """Return the next line without its end; LINE_MAX octets without one count as a line."""
        start, inbox = self._at, self._inbox
        end = inbox.find(b"\n", start, start + LINE_MAX)
        if end < 0:
            if len(inbox) - start < LINE_MAX:
                self._inbox, self._at = inbox[start:], 0
                return None
            end = start + LINE_MAX - 1
        self._at = end + 1
        line = inbox[start : end + 1]
        if self._at == len(inbox):
            self._inbox, self._at = b"", 0
        return line.rstrip(b"\r\n").partition(b"\0")[0]

    def _command(self, line: bytes, events: list[Event]) -> None:
        if self._bad > BAD_COMMANDS_MAX:
            events.append(self._end(self._refusal()))
            return
        match line[:4].upper():
            case b"HELO" | b"EHLO" if self.phase is Phase.GREETED:
                events.append(self._hello(line))
            case b"STAR" if self.phase is Phase.OFFERED and line[:8].upper() == b"STARTTLS":
                self._tls = Tls.AGREED
                events.append(self._say(STARTTLS))
            case b"MAIL":
                self._sender = _after_colon(line, self._sender)
                self.phase = Phase.MAIL
                events.append(self._say(MAIL))
            case b"RCPT":
                self._rcpt(line, events)
            case b"DATA":
                events.append(self._data())
            case b"NOOP":
                events.append(self._say(NOOP))
            case b"RSET" if self.phase is not Phase.GREETED:
                self.phase = Phase.HELLO
                events.append(self._say(RSET))
            case b"QUIT":
                events.append(self._end(b"221 " + self._host.encode() + b"\r\n"))
            case _:
                self._bad += 1
                too_many = self._bad > BAD_COMMANDS_MAX
                events.append(self._end(self._refusal()) if too_many else self._say(UNKNOWN))

    def _hello(self, line: bytes) -> Say:
        words = line[4:].split(None, 1)
        self._helo = words[0][:VALUE_MAX] if words else b""
        if not words:
            return self._say(NO_NAME)
        if self._tls is Tls.OFFERED and line[:4].upper() == b"EHLO":
            self.phase = Phase.OFFERED
            return self._say(f"250-{self._host}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n".encode())
        self.phase = Phase.HELLO
        return self._say(HELLO)

    def _start_tls(self) -> Event:
        """Begin the dialogue anew, in TLS: what was said before it is forgotten (RFC 3207 §4.2)."""
        if self._inbox:
            self._end(b"")
            return Flooded()
        self._tls = Tls.ON
        self._helo = self._sender = self._recipient = b""
        self.phase = Phase.GREETED
        return StartTls()

    def _rcpt(self, line: bytes, events: list[Event]) -> None:
        self._recipient = _after_colon(line, self._recipient)
        self.phase = Phase.RCPT
        if self._recipient and self._sender:
            events.append(Offer(self._helo, self._sender, self._recipient))
        events.append(self._say(RCPT))

    def _data(self) -> Say:
        if not self._sinks:
            return self._end(self._refusal())
        self.phase = Phase.BODY
        return self._say(DATA)

    def _body(self, line: bytes, events: list[Event]) -> None:
        if self._in_body or line:
            self._lines += 1
        if line == b"." or self._lines >= (BODY_LINES_MAX if self._in_body else HEADER_LINES_MAX):
            events.append(self._end(self._refusal()))
        elif not line and not self._in_body:
            self._in_body, self._lines = True, 0
        elif self._in_body and line:
            events.append(Body(line))
        elif line[:8].lower().startswith((b"from:", b"to:", b"subject:")):
            events.append(Header(line))

    def _refusal(self) -> bytes:
        """Return the final reply; made only now, for few clients come so far."""
        return self._final if isinstance(self._final, bytes) else black_reply(*self._final)

    def _say(self, reply: bytes) -> Say:
        self._owed = True
        return Say(reply)

    def _end(self, reply: bytes) -> Say:
        self._owed = True
        self.phase = Phase.OVER
        self._inbox, self._at = b"", 0
        return Say(reply, close=True)


@lru_cache(maxsize=4)
def _banner(host: str, name: str, date: str) -> bytes:
    """Return a banner: one object for all that come within the same second."""
    return f"220 {host} ESMTP {name}; {date}\r\n".encode()


def _after_colon(line: bytes, before: bytes) -> bytes:
    """Return what stands behind the first colon up to a blank; without a colon, what was there before."""
    _, colon, rest = line.partition(b":")
    if not colon:
        return before
    return rest.lstrip(b" \t").replace(b"\t", b" ").partition(b" ")[0].rstrip(b"\r")[:VALUE_MAX]
