"""The server's side of SMTP and LMTP, sans-IO: octets and the steady time in, events out, answers as octets.

    dialogue.receive(octets, steady)
    while (event := dialogue.next_event()) is not None:   # None: it needs more octets, or is closed
        dialogue.accept() | dialogue.refuse(reply) | ...  # each event but BodyPart is answered before the next
    wire.write(dialogue.output())                         # all answers to one pipelined group together

                   Hello          Mail          Rcpt           Data, then the dot; or Bdat ... LAST
    CONNECTED --> IDLE ---------> SENDER -----> RECIPIENTS --> BODY / CHUNK <-> CHUNKS --> ended --> IDLE
        ^          |  ^   RSET, EHLO: back to IDLE from each         `--> SPOILED (a chunk was refused) -RSET-> IDLE
        |          |  `-- AUTH_EXCHANGE
        `-- secured (STARTTLS: all before it is forgotten, RFC 3207 §4.2)           any --> CLOSED

The dialogue itself answers what needs no decision: order, syntax, NOOP, VRFY ..., and it counts errors: after
`soft_errors` each answer is late by one more second (`take_delay`), after `hard_errors` it closes. Who sends on
where the reply must be awaited (RFC 2920 §3.1) is no mail server: 554 and closed (after STARTTLS, an injection).
What else no mail server does is a `Misdeed`; `Terms` has the Reaction to each, as postscreen has actions. ENFORCE
lets the client go on, so that the log learns what it wanted; `convicted` tells the driver to refuse recipients.

`deadline` is the steady time by which the peer must have gone on; a driver that sees it pass calls `expire`.
A whole command has `command_time`, however it trickles in; a body needs `body_rate` after `body_grace`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from gatepost.base.reply import Code, Refusal, Reply
from gatepost.codec import sasl
from gatepost.codec.line import LineBuffer, LineTooLong
from gatepost.codec.smtp.data import BareLines, Chunks, EndOfData, Flaw
from gatepost.codec.smtp.etrn import Etrn, Offer, not_allowed, parse_etrn
from gatepost.codec.smtp.grammar import (
    AUTH_LINE_MAX,
    LINE_TOO_LONG,
    PARAMETER_LINE_MAX,
    Auth,
    Bdat,
    Command,
    Data,
    Hello,
    Introduce,
    Mail,
    Plain,
    Rcpt,
    StartTls,
    Turn,
    parse_command,
)
from gatepost.codec.smtp.wishes import BY, HOLDFOR, HOLDUNTIL, MT_PRIORITY, REQUIRETLS, Asked, unsupported
from gatepost.codec.smtp.xforward import OFFERS, Introduction, parse_introduction

# Words of other protocols: a browser or a proxy was made to speak to us (ALPACA; PROXY from whom we did not ask).
FOREIGN: Final = frozenset(
    (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"PRI", b"PROXY", b"SSH-2.0")
)


class Reaction(Enum):
    """What follows a misdeed."""

    IGNORE = "ignore"
    """It is told and counted; an error stays an error."""
    ENFORCE = "enforce"
    """The session goes on, but no recipient is accepted in it."""
    DROP = "drop"
    """The session ends."""


class Misdeed(Enum):
    """What no mail server does; the value is its name in logs and counters."""

    EARLY = "pregreet"
    FOREIGN = "non-smtp"
    NOT_WAITED = "not-waited"
    UNANNOUNCED = "pipelining"
    BARE_NEWLINE = "bare-newline"
    ERRORS = "errors"
    JUNK = "junk"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a server offers and how long it is patient. Sizes in octets, times in seconds."""

    hostname: str
    lmtp: bool = False
    size: int = 50 << 20
    recipients: int = 1_000
    overshoot: int = 1_000
    """Recipients refused beyond the limit before the session is closed."""
    mails: int = 100
    starttls: bool = False
    require_tls: bool = False
    mechanisms: tuple[str, ...] = ()
    """SASL mechanisms, offered over TLS only."""
    auth_required: bool = False
    trust_plaintext: bool = False
    """Take passwords without TLS: a loopback peer where the settings allow it."""
    bare_lines: BareLines = BareLines.REJECT
    soft_errors: int = 5
    hard_errors: int = 10
    junk: int = 50
    """Commands that bring no mail nearer, between two mails."""
    refused_recipients: int = 50
    auth_failures: int = 3
    command_time: float = 300.0  # RFC 5321 §4.5.3.2.7
    body_grace: float = 60.0
    body_rate: int = 500
    session_time: float = 1_200.0
    """Life of a session that has not authenticated; a body under way is let finish."""
    forbidden: frozenset[bytes] = FOREIGN
    """Words, in capitals, that begin a line of another protocol; a header line of a mail is one too."""
    foreign: Reaction = Reaction.DROP
    bare_newline: Reaction = Reaction.IGNORE
    """A command with an LF that has no CR before it."""
    unannounced: Reaction = Reaction.IGNORE
    """Commands sent together by who did not say EHLO, so was not told of PIPELINING (RFC 2920 §3.1)."""
    introductions: frozenset[str] = frozenset()
    """XFORWARD, XCLIENT: which of them this peer may say, and is told of."""
    etrn: Offer = Offer.NONE
    requiretls: bool = True
    """Take mail that must not travel without TLS (RFC 8689); offered over TLS only."""
    priority: bool = False
    """Let the client say how urgent a mail is (RFC 6710)."""
    deliver_by: bool = False
    """Let the client say by when a mail is to be delivered (RFC 2852)."""
    future_release: str = ""
    """How long, and until when, a mail may be held back (RFC 4865 §4), as EHLO says it; "" where none is."""


@dataclass(frozen=True, slots=True)
class BodyBegins:
    """The peer wants to send the mail: DATA or the first BDAT. Accept or refuse."""


@dataclass(frozen=True, slots=True)
class BodyPart:
    """Content as it will be stored; needs no answer."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class BodyEnds:
    """The mail is whole. `flaw` tells why its lines cannot be taken. Accept (LMTP: accept_each) or refuse."""

    flaw: Flaw | None
    longest: int


@dataclass(frozen=True, slots=True)
class Authenticating:
    """The peer has shown credentials: answer with `authenticated()` or `refuse`."""

    credentials: sasl.Credentials


@dataclass(frozen=True, slots=True)
class TransactionReset:
    """The transaction under way is forgotten (RSET, a new EHLO). Needs no answer."""


Event = (
    Hello
    | Mail
    | Rcpt
    | BodyBegins
    | BodyPart
    | BodyEnds
    | Authenticating
    | StartTls
    | TransactionReset
    | Introduction
    | Etrn
)


class Phase(Enum):
    """Where the dialogue stands."""

    CONNECTED = auto()
    IDLE = auto()
    SENDER = auto()
    RECIPIENTS = auto()
    BODY = auto()
    CHUNKS = auto()
    CHUNK = auto()
    SPOILED = auto()
    AUTH_EXCHANGE = auto()
    CLOSED = auto()


_EVERYWHERE: Final = frozenset(
    (Phase.CONNECTED, Phase.IDLE, Phase.SENDER, Phase.RECIPIENTS, Phase.CHUNKS, Phase.SPOILED)
)
ALLOWED: Final[Mapping[type[Command], frozenset[Phase]]] = {
    Hello: _EVERYWHERE,
    Plain: _EVERYWHERE,
    Introduce: _EVERYWHERE,
    Turn: _EVERYWHERE,
    Mail: frozenset((Phase.IDLE,)),
    Rcpt: frozenset((Phase.SENDER, Phase.RECIPIENTS)),
    Data: frozenset((Phase.RECIPIENTS,)),
    Bdat: frozenset((Phase.RECIPIENTS, Phase.CHUNKS)),
    Auth: frozenset((Phase.IDLE,)),
    StartTls: frozenset((Phase.IDLE, Phase.CONNECTED)),
}
_MUST_WAIT: Final = (Hello, Data, Auth, StartTls)  # RFC 2920 §3.1: last in a group

_HEADER_LINE: Final = re.compile(rb"(?!(?:MAIL|RCPT):)[!-9;-~]+[ \t]*:", re.IGNORECASE)  # RFC 5322 §2.2, §4.5

_MAIL_OK: Final = Reply(Code.OK, "2.1.0", "Ok").octets()
_RCPT_OK: Final = Reply(Code.OK, "2.1.5", "Destination address valid: Recipient ok").octets()
_GO_AHEAD: Final = Reply(Code.START_DATA, "", 'Enter mail, end with "." on a line by itself').octets()
_RESET: Final = Reply(Code.OK, "2.0.0", "Ok").octets()
_BYE: Final = Reply(Code.BYE, "2.0.0", "Bye")
_TLS_READY: Final = Reply(Code.READY, "2.0.0", "Ready to start TLS").octets()
_AUTHENTICATED: Final = Reply(Code.AUTHENTICATED, "2.7.0", "Authentication succeeded").octets()

OUT_OF_ORDER: Final = Reply(Code.BAD_SEQUENCE, "5.5.1", "Command not allowed at this point")
NO_RECIPIENTS: Final = Reply(Code.BAD_SEQUENCE, "5.5.1", "No valid recipients")
NOT_WAITED: Final = Reply(Code.FAILED, "5.5.0", "Commands were sent where the reply must be awaited")
NEEDS_TLS: Final = Reply(Code.AUTH_REQUIRED, "5.7.0", "Must issue a STARTTLS command first")
NEEDS_AUTH: Final = Reply(Code.AUTH_REQUIRED, "5.7.0", "Must issue an AUTH command first")
NO_PLAIN_PASSWORD: Final = Reply(Code.ENCRYPTION_REQUIRED, "5.7.11", "Encryption required for authentication")
AUTH_LINE_TOO_LONG: Final = Reply(Code.SYNTAX, "5.5.6", "Authentication line too long")  # RFC 4954 §4
NO_AUTH: Final = Reply(Code.NOT_IMPLEMENTED, "5.5.1", "Authentication is not offered here")
NO_TLS: Final = Reply(Code.NOT_IMPLEMENTED, "5.5.1", "TLS is not offered here")
TOO_BIG: Final = Reply(Code.TOO_BIG, "5.3.4", "Message too big")
TOO_MANY_RECIPIENTS: Final = Reply(Code.NO_STORAGE, "4.5.3", "Too many recipients")
TOO_MANY_MAILS: Final = Reply(Code.NO_STORAGE, "4.5.3", "Too many messages sent")
TOO_MANY_ERRORS: Final = Reply(Code.SHUTTING_DOWN, "4.7.0", "Too many errors")
TOO_MUCH_JUNK: Final = Reply(Code.SHUTTING_DOWN, "4.7.0", "Too many commands that bring no mail")
TOO_MANY_LOGINS: Final = Reply(Code.SHUTTING_DOWN, "4.7.0", "Too many authentication failures")
TOO_SLOW: Final = Reply(Code.SHUTTING_DOWN, "4.4.2", "Timeout")
BARE_NEWLINE: Final = Reply(Code.FAILED, "5.5.2", "Lines end in CR LF, not in LF alone")
NOT_SMTP: Final = Reply(Code.SHUTTING_DOWN, "4.7.0", "This is a mail server")
MALFORMED_RESPONSE: Final = Reply(Code.ARGUMENTS, "5.5.2", "Malformed authentication response")
AUTH_CANCELLED: Final = Reply(Code.ARGUMENTS, "5.7.0", "Authentication cancelled")
NOT_TRUSTED: Final = Reply(Code.NO_SUCH_MAILBOX, "5.7.0", "Not allowed")
UNKNOWN_MECHANISM: Final = Reply(Code.PARAMETER_NOT_IMPLEMENTED, "5.5.4", "Mechanism not supported")

_ANSWERS: Final = {
    "NOOP": Reply(Code.OK, "2.0.0", "Ok"),
    "HELP": Reply(Code.HELP, "2.0.0", "gatepost: RFC 5321; the postmaster of this host answers mail"),
    "VRFY": Reply(Code.CANNOT_VERIFY, "2.5.2", "Cannot VRFY: try RCPT to attempt delivery"),  # RFC 5321 §7.3
    "EXPN": Reply(Code.NOT_IMPLEMENTED, "5.5.1", "Command not implemented"),
    "ETRN": Reply(Code.NOT_IMPLEMENTED, "5.5.1", "Command not implemented"),
    "TURN": Reply(Code.NOT_IMPLEMENTED, "5.5.1", "Command not implemented"),
}


class Dialogue:
    """One session with one client."""

    __slots__ = (
        "_authenticated",
        "_body",
        "_chunk_last",
        "_chunk_left",
        "_chunk_refusal",
        "_chunk_size",
        "_chunked",
        "_data_bytes",
        "_delay",
        "_errors",
        "_failed_logins",
        "_junk",
        "_lines",
        "_mails",
        "_mechanism",
        "_misdeeds",
        "_opened",
        "_out",
        "_over",
        "_pending",
        "_phase",
        "_pipelining",
        "_recipients",
        "_refused",
        "_resume",
        "_since",
        "_steady",
        "_tls",
        "_told",
        "_utf8",
        "close_reason",
        "convicted",
        "terms",
    )

    def __init__(self, terms: Terms, steady: float, *, tls: bool = False) -> None:
        """Begin at `steady`; `tls` for a connection that is encrypted from its first octet."""
        self.terms = terms
        self.close_reason = ""
        self.convicted: Misdeed | None = None
        """For what no recipient is to be accepted in this session."""
        self._misdeeds: list[Misdeed] = []
        self._told = 0
        self._pipelining = False
        self._lines = LineBuffer(PARAMETER_LINE_MAX)
        self._out: list[bytes] = []
        self._phase = Phase.CONNECTED
        self._pending: Event | None = None
        self._tls = tls
        self._authenticated = False
        self._mechanism: sasl.Mechanism | None = None
        self._body: EndOfData | Chunks | None = None
        self._chunk_left = self._chunk_size = 0
        self._chunked = self._chunk_last = False
        self._chunk_refusal: Reply | None = None
        self._resume = Phase.SPOILED
        self._opened = self._since = self._steady = steady
        self._delay = 0.0
        self._errors = self._junk = self._mails = self._failed_logins = 0
        self._recipients = self._refused = self._over = self._data_bytes = 0
        self._utf8 = False
        self._set_line_limit()

    # What the driver asks

    @property
    def phase(self) -> Phase:
        """Return where the dialogue stands."""
        return self._phase

    @property
    def closed(self) -> bool:
        """Tell whether nothing more is read or said; the driver closes once `output` is sent."""
        return self._phase is Phase.CLOSED

    @property
    def recipients(self) -> int:
        """Return how many recipients of this transaction were accepted."""
        return self._recipients

    @property
    def body_octets(self) -> int:
        """Return how many octets of the body, or of this chunk, have come."""
        return self._data_bytes

    @property
    def mails(self) -> int:
        """Return how many mails were accepted."""
        return self._mails

    @property
    def deadline(self) -> float:
        """Return the steady time at which the peer has been too slow."""
        if self._phase in (Phase.BODY, Phase.CHUNK):
            return self._since + self.terms.body_grace + self._data_bytes / self.terms.body_rate
        deadline = self._since + self.terms.command_time
        if self._authenticated:
            return deadline
        return min(deadline, self._opened + self.terms.session_time)

    def output(self) -> bytes:
        """Return what is to be sent now, once."""
        octets = b"".join(self._out)
        self._out.clear()
        return octets

    def take_delay(self) -> float:
        """Return the seconds by which the next output should be late, once."""
        delay, self._delay = self._delay, 0.0
        return delay

    def take_misdeeds(self) -> Sequence[Misdeed]:
        """Return the misdeeds that are new, each kind once in a session."""
        new = self._misdeeds[self._told :]
        self._told = len(self._misdeeds)
        return new

    # What comes in

    def receive(self, octets: bytes, steady: float) -> None:
        """Take what the peer sent."""
        self._steady = steady
        if self._phase is Phase.CONNECTED and not self._lines and octets.startswith(b"\x16\x03"):
            self.note(Misdeed.FOREIGN)
            self.close(NOT_SMTP, "a TLS handshake on a plain port")
        if self._phase is not Phase.CLOSED:
            self._lines.feed(octets)

    def expire(self, steady: float) -> bool:
        """Say 421 and close when the deadline has passed; tell whether it had."""
        if steady < self.deadline or self.closed:
            return False
        self.close(TOO_SLOW, "too slow")
        return True

    def next_event(self) -> Event | None:
        """Return what has to be decided next; None when more octets are needed or the dialogue is closed."""
        assert self._pending is None, "the last event was not answered"
        while self._phase is not Phase.CLOSED:
            if self._phase is Phase.BODY:
                return self._body_event()
            if self._phase is Phase.CHUNK:
                event, more = self._chunk_event()
                if event is not None or not more:
                    return event
                continue
            try:
                line = self._lines.line()
            except LineTooLong:
                self._endless_line()
                return None
            if line is None:
                if self.terms.bare_newline is Reaction.DROP and self._lines.has_bare_newline:
                    self._bare_newline()
                return None
            self._since = self._steady
            found = self._response(line) if self._phase is Phase.AUTH_EXCHANGE else self._command(line)
            if found is not None:
                return found
        return None

    # What is answered

    def note(self, misdeed: Misdeed, reaction: Reaction = Reaction.IGNORE) -> None:
        """Remember a misdeed; closing is the caller's."""
        if misdeed not in self._misdeeds:
            self._misdeeds.append(misdeed)
        if reaction is Reaction.ENFORCE and self.convicted is None:
            self.convicted = misdeed

    def greet(self, text: str = "ESMTP gatepost") -> None:
        """Say the banner."""
        self.say(Reply(Code.READY, "", f"{self.terms.hostname} {'LMTP gatepost' if self.terms.lmtp else text}"))

    def say(self, reply: Reply) -> None:
        """Send a reply that answers no event."""
        self._out.append(reply.octets())

    def accept(self, reply: Reply | None = None) -> None:
        """Say yes to the event in hand, with the usual words unless `reply` is given."""
        event, self._pending = self._pending, None
        match event:
            case Hello():
                self._phase = Phase.IDLE
                self._pipelining = event.verb != "HELO"
                self._out.append(reply.octets() if reply else self._offer(event))
            case Mail():
                self._phase = Phase.SENDER
                self._utf8 = event.smtputf8
                self._out.append(reply.octets() if reply else _MAIL_OK)
            case Rcpt():
                self._phase = Phase.RECIPIENTS
                self._recipients += 1
                self._out.append(reply.octets() if reply else _RCPT_OK)
            case BodyBegins():
                self._begin_body()
            case BodyEnds():
                assert reply is not None, "an accepted mail is told its id"
                self.accept_each((reply,) * (self._recipients if self.terms.lmtp else 1))
            case StartTls():
                self._out.append(_TLS_READY)
            case Introduction():
                self._out.append(_RESET)
            case Etrn():
                assert reply is not None, "who asks for mail is told whether some waits"
                self._out.append(reply.octets())
            case _:
                raise AssertionError(f"there is nothing to accept in {event!r}")

    def accept_each(self, replies: Sequence[Reply]) -> None:
        """Answer a whole mail: one reply, or in LMTP one for each accepted recipient in order (RFC 2033 §4.2)."""
        self._pending = None
        self._out.extend(reply.octets() for reply in replies)
        if any(reply.positive for reply in replies):
            self._mails += 1
            self._junk = 0
        self._forget_transaction()

    def refuse(self, reply: Reply, *, close: bool = False) -> None:
        """Say no to the event in hand."""
        event, self._pending = self._pending, None
        match event:
            case BodyEnds():
                copies = self._recipients if self.terms.lmtp else 1
                self._out.extend((reply.octets(),) * copies)
                self._forget_transaction()
            case BodyBegins():
                if self._chunked:
                    self._swallow(reply, Phase.SPOILED)
                else:
                    self._out.append(reply.octets())
                    self._forget_transaction()
            case Rcpt():
                self._out.append(reply.octets())
                self._refused += 1
                if self._refused >= self.terms.refused_recipients:
                    self.close(TOO_MANY_ERRORS, "too many refused recipients")
            case Authenticating():
                self._phase = Phase.IDLE
                self._out.append(reply.octets())
                if not reply.temporary:
                    self._failed_login()
            case _:
                self._fail(reply)
        if close:
            self.close(None, reply.text)

    def authenticated(self) -> None:
        """Say that the credentials were right."""
        assert isinstance(self._pending, Authenticating)
        self._pending = None
        self._phase = Phase.IDLE
        self._authenticated = True
        self._errors = 0
        self._out.append(_AUTHENTICATED)

    def secured(self) -> None:
        """Begin anew inside TLS: whatever was said before is forgotten (RFC 3207 §4.2)."""
        assert not self._lines, "octets from before the handshake"
        self._pending = None
        self._tls = True
        self._authenticated = False
        self._forget_transaction()
        self._phase = Phase.CONNECTED
        self._pipelining = False
        self._set_line_limit()

    def restart(self, *, authenticated: bool) -> None:
        """Begin anew for the client that XCLIENT told of, whom a proxy may have authenticated.

        EHLO may be said again and need not be: clamsmtp goes on with the MAIL that it had held back.
        """
        assert not self._lines, "octets from before the new greeting"
        self._pending = None
        self._authenticated = authenticated
        self._forget_transaction()
        self._set_line_limit()
        self.greet()

    def close(self, reply: Reply | None = None, reason: str = "") -> None:
        """End the session; `reply` is said before."""
        if self._phase is Phase.CLOSED:
            return
        if reply is not None:
            self._out.append(reply.octets())
        self._phase = Phase.CLOSED
        self.close_reason = reason
        self._pending = None
        self._lines.clear()

    # Commands

    def _command(self, line: bytes) -> Event | None:
        if b"\n" in line and self._bare_newline():
            return None
        try:
            command = parse_command(line, utf8=self._utf8)
        except Refusal as refusal:
            self._unreadable(line, refusal)
            return None
        if self._phase not in ALLOWED[type(command)]:
            self._out_of_order(command)
            return None
        if len(self._lines) and self._runs_ahead(command):
            return None
        return self._answerable(command)

    def _runs_ahead(self, command: Command) -> bool:
        """Look at a command with more behind it; tell whether the session is over."""
        if isinstance(command, _MUST_WAIT):
            self.note(Misdeed.NOT_WAITED)
            self.close(NOT_WAITED, "did not wait for a reply")
        elif not self._pipelining and not isinstance(command, Bdat):
            self.note(Misdeed.UNANNOUNCED, self.terms.unannounced)
            if self.terms.unannounced is Reaction.DROP:
                self.close(NOT_WAITED, "pipelining was not announced")
        return self.closed

    def _bare_newline(self) -> bool:
        """Note an LF without CR in a command; tell whether the session is over."""
        self.note(Misdeed.BARE_NEWLINE, self.terms.bare_newline)
        if self.terms.bare_newline is Reaction.DROP:
            self.close(BARE_NEWLINE, "a bare newline")
        return self.closed

    def _endless_line(self) -> None:
        if self._lines.has_bare_newline and self._bare_newline():
            return
        begin = self._lines.take(5)
        login = self._phase is Phase.AUTH_EXCHANGE or begin.upper() == b"AUTH "
        self.close(AUTH_LINE_TOO_LONG if login else LINE_TOO_LONG, "line too long")

    def _answerable(self, command: Command) -> Event | None:
        match command:
            case Mail():
                return self._mail(command)
            case Rcpt():
                return self._rcpt(command)
            case Data():
                self._chunked = False
                return self._ask(BodyBegins())
            case Bdat():
                return self._bdat(command)
            case Plain():
                return self._plain(command.verb)
            case Hello():
                return self._hello(command)
            case StartTls():
                return self._starttls(command)
            case Auth():
                return self._auth(command)
            case Introduce():
                return self._introduce(command)
            case Turn():
                return self._etrn(command)

    def _ask(self, event: Event) -> Event:
        self._pending = event
        return event

    def _unreadable(self, line: bytes, refusal: Refusal) -> None:
        if line.partition(b" ")[0].upper() in self.terms.forbidden or _HEADER_LINE.match(line):
            self.note(Misdeed.FOREIGN, self.terms.foreign)
            if self.terms.foreign is Reaction.DROP:
                self.close(NOT_SMTP, "another protocol")
                return
        self._fail(refusal.reply)
        if refusal.close:
            self.close(None, refusal.reply.text)

    def _out_of_order(self, command: Command) -> None:
        if isinstance(command, Bdat):  # its octets come whatever we say (RFC 3030 §2)
            self._chunk_size = self._chunk_left = command.size
            self._swallow(OUT_OF_ORDER, Phase.SPOILED if self._phase is Phase.CHUNKS else self._phase)
        elif isinstance(command, Data) and self._phase is Phase.SENDER:
            self._fail(NO_RECIPIENTS)
        else:
            self._fail(OUT_OF_ORDER)

    def _hello(self, command: Hello) -> Event | None:
        if (command.verb == "LHLO") is not self.terms.lmtp:  # RFC 2033 §4.1
            self._fail(Reply(Code.SYNTAX, "5.5.1", "Command unrecognized"))
            return None
        if self._phase is not Phase.CONNECTED and not self._waste():
            return None
        self._forget_transaction()
        return self._ask(command)

    def _mail(self, command: Mail) -> Event | None:
        if self.terms.require_tls and not self._tls:
            self._fail(NEEDS_TLS)
        elif self.terms.auth_required and not self._authenticated:
            self._fail(NEEDS_AUTH)
        elif command.size > self.terms.size:
            self._fail(TOO_BIG)
        elif self._mails >= self.terms.mails:
            self._fail(TOO_MANY_MAILS)
        elif command.asked is not None and (refusal := self._not_offered(command.asked)) is not None:
            self._fail(refusal)
        else:
            return self._ask(command)
        return None

    def _not_offered(self, asked: Asked) -> Reply | None:
        """Return why what MAIL asked for cannot be had in this session."""
        if asked.requiretls and not (self._tls and self.terms.requiretls):
            return unsupported(REQUIRETLS)
        if asked.priority is not None and not self.terms.priority:
            return unsupported(MT_PRIORITY)
        if asked.by is not None and not self.terms.deliver_by:
            return unsupported(BY)
        if asked.holds and not self.terms.future_release:
            return unsupported(HOLDFOR if asked.hold_for else HOLDUNTIL)
        return None

    def _rcpt(self, command: Rcpt) -> Event | None:
        if self._recipients < self.terms.recipients:
            return self._ask(command)
        self._recipients_over()
        return None

    def _recipients_over(self) -> None:
        self._out.append(TOO_MANY_RECIPIENTS.octets())  # 4yz, never 5yz: RFC 5321 §4.5.3.1.10
        self._over += 1
        if self._over > self.terms.overshoot:
            self.close(TOO_MANY_ERRORS, "too many recipients")

    def _plain(self, verb: str) -> Event | None:
        if verb == "QUIT":
            self.close(_BYE, "QUIT")
        elif verb == "RSET":
            return self._rset()
        elif not _ANSWERS[verb].positive:
            self._fail(_ANSWERS[verb])
        elif self._waste():
            self.say(_ANSWERS[verb])
        return None

    def _rset(self) -> Event | None:
        if not self._waste():
            return None
        self._out.append(_RESET)
        if self._phase in (Phase.CONNECTED, Phase.IDLE) and not self.terms.introductions:
            return None
        self._forget_transaction()  # and what XFORWARD said
        return TransactionReset()

    def _starttls(self, command: StartTls) -> Event | None:
        if self._tls:
            self._fail(OUT_OF_ORDER)
        elif not self.terms.starttls:
            self._fail(NO_TLS)
        else:
            return self._ask(command)
        return None

    def _introduce(self, command: Introduce) -> Event | None:
        """Read XFORWARD or XCLIENT of a peer that may say it; XCLIENT must be the last of a group."""
        if command.verb not in self.terms.introductions:
            self._fail(NOT_TRUSTED)
        elif self._phase not in (Phase.CONNECTED, Phase.IDLE):
            self._fail(OUT_OF_ORDER)
        elif command.verb == "XCLIENT" and len(self._lines):
            self.note(Misdeed.NOT_WAITED)
            self.close(NOT_WAITED, "did not wait for a reply")
        elif self._waste():
            try:
                return self._ask(parse_introduction(command.verb, command.rest))
            except Refusal as refusal:
                self._fail(refusal.reply)
        return None

    def _etrn(self, command: Turn) -> Event | None:
        if self.terms.etrn is Offer.NONE:
            self._fail(_ANSWERS["ETRN"])
        elif self._phase is not Phase.IDLE:  # RFC 1985 §5.1: not within a transaction, nor before EHLO
            self._fail(OUT_OF_ORDER)
        elif self._waste():
            try:
                asked = parse_etrn(command.rest)
            except Refusal as refusal:
                self._fail(refusal.reply)
                return None
            if self.terms.etrn is Offer.YES:
                return self._ask(asked)
            self._fail(not_allowed(asked.node))
        return None

    # AUTH

    def _auth(self, command: Auth) -> Event | None:
        if not self.terms.mechanisms:
            self._fail(NO_AUTH)
        elif self._authenticated:
            self._fail(OUT_OF_ORDER)
        elif not self._tls and not self.terms.trust_plaintext:
            self._fail(NO_PLAIN_PASSWORD)
        elif command.mechanism not in self.terms.mechanisms:
            self._fail(UNKNOWN_MECHANISM)
        else:
            self._mechanism = sasl.MECHANISMS[command.mechanism]()
            return self._exchange(command.initial)
        return None

    def _response(self, line: bytes) -> Event | None:
        if b"\n" in line and self._bare_newline():
            return None
        if len(self._lines):
            self.note(Misdeed.NOT_WAITED)
            self.close(NOT_WAITED, "did not wait for a reply")
            return None
        self._phase = Phase.IDLE
        if line == sasl.CANCEL:
            self._mechanism = None
            self._fail(AUTH_CANCELLED)
            return None
        return self._exchange(line)

    def _exchange(self, response: bytes | None) -> Event | None:
        assert self._mechanism is not None
        try:
            step = self._mechanism.step(None if response is None else sasl.decode_response(response))
        except sasl.Malformed:
            self._mechanism = None
            self._fail(MALFORMED_RESPONSE)
            return None
        if isinstance(step, sasl.Credentials):
            self._mechanism = None
            return self._ask(Authenticating(step))
        self._phase = Phase.AUTH_EXCHANGE
        self._out.append(b"334 %s\r\n" % sasl.encode(step.octets))
        return None

    def _failed_login(self) -> None:
        self._failed_logins += 1
        if self._failed_logins >= self.terms.auth_failures:
            self.close(TOO_MANY_LOGINS, "too many authentication failures")

    # Bodies

    def _begin_body(self) -> None:
        self._data_bytes = 0
        self._since = self._steady
        if self._chunked:
            self._body = Chunks(self.terms.bare_lines)
            self._phase = Phase.CHUNK
        else:
            self._body = EndOfData(self.terms.bare_lines)
            self._phase = Phase.BODY
            self._out.append(_GO_AHEAD)

    def _body_event(self) -> Event | None:
        body = self._body
        assert isinstance(body, EndOfData)
        if body.ended:
            return self._body_ends()
        octets = self._lines.take()
        if not octets:
            return None
        self._data_bytes += len(octets)
        content = body.feed(octets)
        if body.rest:
            self._lines.feed(body.rest)
        if content:
            return BodyPart(content)
        return self._body_ends() if body.ended else None

    def _body_ends(self) -> Event:
        assert self._body is not None
        lines = self._body.lines
        self._since = self._steady
        self._phase = Phase.CHUNKS
        self._body = None
        return self._ask(BodyEnds(lines.flaw, lines.longest))

    def _bdat(self, command: Bdat) -> Event | None:
        self._chunk_size = self._chunk_left = command.size
        self._chunk_last = command.last
        self._chunk_refusal = None
        self._chunked = True
        if self._phase is Phase.RECIPIENTS:
            if not command.size and not command.last:  # an empty chunk to begin with: nothing begins
                self._out.append(self._chunk_taken())
                return None
            return self._ask(BodyBegins())
        self._since = self._steady
        self._data_bytes = 0
        self._phase = Phase.CHUNK
        return None

    def _chunk_event(self) -> tuple[Event | None, bool]:
        """Return an event, or whether commands may go on."""
        if self._chunk_left:
            octets = self._lines.take(self._chunk_left)
            if not octets:
                return None, False
            self._chunk_left -= len(octets)
            self._data_bytes += len(octets)
            if self._chunk_refusal is None:
                assert isinstance(self._body, Chunks)
                content = self._body.feed(octets)
                if content:
                    return BodyPart(content), True
            return None, True
        self._since = self._steady
        if self._chunk_refusal is not None:
            self._phase = self._resume
            self._fail(self._chunk_refusal)
            return None, True
        if not self._chunk_last:
            self._phase = Phase.CHUNKS
            self._out.append(self._chunk_taken())
            return None, True
        assert isinstance(self._body, Chunks)
        content = self._body.finish()
        if content:
            return BodyPart(content), True
        return self._body_ends(), True

    def _chunk_taken(self) -> bytes:
        return Reply(Code.OK, "2.0.0", f"{self._chunk_size} octets received").octets()

    def _swallow(self, reply: Reply, resume: Phase) -> None:
        """Let a refused chunk's octets go by, then say the refusal and go on in `resume`."""
        if self._chunk_left > self.terms.size:  # more than we would ever take: it is cheaper to part
            self.close(reply, "a refused chunk that is too big")
            return
        self._chunk_refusal = reply
        self._resume = resume
        self._data_bytes = 0
        self._since = self._steady
        self._body = None
        self._phase = Phase.CHUNK

    def _forget_transaction(self) -> None:
        self._recipients = self._over = 0
        self._utf8 = self._chunked = False
        self._body = None
        if self._phase not in (Phase.CONNECTED, Phase.CLOSED):
            self._phase = Phase.IDLE

    # Counting

    def _fail(self, reply: Reply) -> None:
        """Say no to a command and count it."""
        self._out.append(reply.octets())
        self._errors += 1
        if self._errors >= self.terms.hard_errors:
            self.note(Misdeed.ERRORS)
            self.close(TOO_MANY_ERRORS, "too many errors")
        elif self._errors > self.terms.soft_errors:
            self._delay += 1.0

    def _waste(self) -> bool:
        """Count a command that brings no mail nearer; tell whether the session goes on."""
        self._junk += 1
        if self._junk <= self.terms.junk:
            return True
        self.note(Misdeed.JUNK)
        self.close(TOO_MUCH_JUNK, "too much junk")
        return False

    def _set_line_limit(self) -> None:
        self._lines.limit = AUTH_LINE_MAX if self._may_log_in else PARAMETER_LINE_MAX

    @property
    def _may_log_in(self) -> bool:
        return bool(self.terms.mechanisms) and (self._tls or self.terms.trust_plaintext) and not self._authenticated

    def _offer(self, hello: Hello) -> bytes:
        if hello.verb == "HELO":
            return Reply(Code.OK, "", self.terms.hostname).octets()
        return _extensions(self.terms, self._tls, self._may_log_in)


@lru_cache(maxsize=64)
def _extensions(terms: Terms, tls: bool, auth: bool) -> bytes:
    """Return the answer to EHLO and LHLO."""
    lines = [
        terms.hostname,
        "PIPELINING",
        f"SIZE {terms.size}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        *(("REQUIRETLS",) if tls and terms.requiretls else ()),
        *(("MT-PRIORITY MIXER",) if terms.priority else ()),  # RFC 6710 appendix B
        *(("DELIVERBY",) if terms.deliver_by else ()),
        *((f"FUTURERELEASE {terms.future_release}",) if terms.future_release else ()),
        "DSN",
    ]
    if terms.starttls and not tls:
        lines.append("STARTTLS")
    if auth:
        lines.append("AUTH " + " ".join(terms.mechanisms))
    if terms.etrn is Offer.YES:
        lines.append("ETRN")
    lines += (f"{verb} {attributes}" for verb, attributes in OFFERS.items() if verb in terms.introductions)
    return Reply(Code.OK, "", "\n".join(lines)).octets()
