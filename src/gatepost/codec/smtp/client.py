"""The client's side of SMTP and LMTP, sans-IO: command octets, the capped reader of replies, the dot stuffer.

    wire.write(mail(sender, size=5120) + rcpt(address))       # a group, where the server offered PIPELINING
    for event in dialogue.receive(octets): event.reply ...    # replies in the order of the commands

Every builder refuses CR, LF and NUL in its arguments (ValueError): nothing that came from a stranger can become a
command. What a server says is data of a stranger too: replies are bounded and made printable before anybody stores
or logs them (CVE-2020-8794). A server that breaks the grammar or the limits raises PeerBroke: close the connection.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gatepost.base.address import Address, ReversePath
from gatepost.base.envelope import Notify
from gatepost.base.reply import Reply
from gatepost.codec import sasl
from gatepost.codec.line import LineBuffer, LineTooLong
from gatepost.codec.smtp.data import crlf_only
from gatepost.codec.smtp.grammar import path_text, xtext_encode
from gatepost.codec.smtp.wishes import By

DATA: Final = b"DATA\r\n"
RSET: Final = b"RSET\r\n"
NOOP: Final = b"NOOP\r\n"
QUIT: Final = b"QUIT\r\n"
STARTTLS: Final = b"STARTTLS\r\n"

_REPLY_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED: Final = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$)")  # RFC 2034 §4
_NAME: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class PeerBroke(Exception):
    """The server said what no SMTP server says, or too much of it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one reply is read. Octets include CRLFs."""

    line: int = 2_048  # RFC 5321 §4.5.3.1.5 says 512; real servers say more
    octets: int = 16_384
    lines: int = 100


@dataclass(frozen=True, slots=True)
class HeardReply:
    """A server's whole reply. `lines` are printable and without the enhanced status code, which stands apart."""

    code: int
    enhanced: str
    lines: tuple[str, ...]

    @property
    def positive(self) -> bool:
        """Tell whether it is a 2yz or 3yz."""
        return self.code < 400

    @property
    def temporary(self) -> bool:
        """Tell whether to try again (4yz)."""
        return 400 <= self.code < 500

    @property
    def text(self) -> str:
        """Return the lines joined by blanks."""
        return " ".join(self.lines)

    def as_reply(self) -> Reply:
        """Return it in the form in which we speak ourselves: for diaries, queue rows and reports."""
        return Reply(self.code, self.enhanced, "\n".join(self.lines))

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


@dataclass(frozen=True, slots=True)
class ReplyReceived:
    """One reply is whole."""

    reply: HeardReply


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a server offered in its answer to EHLO or LHLO.

    `size` is 0 for no limit, None when SIZE was not offered.
    """

    name: str = ""
    pipelining: bool = False
    size: int | None = None
    eight_bit: bool = False
    smtputf8: bool = False
    chunking: bool = False
    dsn: bool = False
    enhanced: bool = False
    starttls: bool = False
    mechanisms: frozenset[str] = frozenset()
    xforward: frozenset[str] = frozenset()
    """The attributes of XFORWARD that it takes."""
    requiretls: bool = False
    priority: bool = False
    deliver_by: int | None = None
    """The least seconds that it takes with R (RFC 2852 §2), None where DELIVERBY was not offered."""

    @staticmethod
    def read(reply: HeardReply) -> "Extensions":
        """Read the answer to EHLO (RFC 5321 §4.1.1.1); what we do not know is passed over."""
        offered: dict[str, str] = {}
        for line in reply.lines[1:]:
            keyword, _, values = line.replace("AUTH=", "AUTH ", 1).partition(" ")
            offered.setdefault(keyword.upper(), values.strip())
        size = offered.get("SIZE")
        return Extensions(
            name=reply.lines[0].partition(" ")[0] if reply.lines else "",
            pipelining="PIPELINING" in offered,
            size=None if size is None else int(size) if re.fullmatch("[0-9]{1,18}", size) else 0,
            eight_bit="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            chunking="CHUNKING" in offered,
            dsn="DSN" in offered,
            enhanced="ENHANCEDSTATUSCODES" in offered,
            starttls="STARTTLS" in offered,
            mechanisms=frozenset(offered.get("AUTH", "").upper().split()),
            xforward=frozenset(offered.get("XFORWARD", "").upper().split()),
            requiretls="REQUIRETLS" in offered,
            priority="MT-PRIORITY" in offered,
            deliver_by=_least_time(offered.get("DELIVERBY")),
        )


class Dialogue:
    """Read one server's replies, and stuff the dots of what is sent to it."""

    __slots__ = ("_buffer", "_code", "_heard", "_limits", "_octets", "_stuffer")

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._buffer = LineBuffer(self._limits.line)
        self._code = b""
        self._heard: list[bytes] = []
        self._octets = 0
        self._stuffer: DotStuffer | None = None

    @property
    def idle(self) -> bool:
        """Tell whether nothing of another reply has come: required before STARTTLS (CVE-2011-0411's other side)."""
        return not self._buffer and not self._heard

    def receive(self, octets: bytes) -> list[ReplyReceived]:
        """Take what the server sent; return the replies that are whole now. Raises PeerBroke."""
        self._buffer.feed(octets)
        replies: list[ReplyReceived] = []
        while True:
            try:
                line = self._buffer.line()
            except LineTooLong as error:
                raise PeerBroke(str(error)) from error
            if line is None:
                return replies
            reply = self._line(line)
            if reply is not None:
                replies.append(ReplyReceived(reply))

    def data_octets(self, chunk: bytes) -> bytes:
        """Return a piece of the mail as it is sent after DATA: dots stuffed, every line end CRLF."""
        if self._stuffer is None:
            self._stuffer = DotStuffer()
        return self._stuffer.stuff(chunk)

    def data_end(self) -> bytes:
        """Return the end of the mail: its last CRLF if it has none, and the dot."""
        stuffer, self._stuffer = self._stuffer or DotStuffer(), None
        return stuffer.end()

    def _line(self, line: bytes) -> HeardReply | None:
        found = _REPLY_LINE.fullmatch(line)
        if found is None:
            raise PeerBroke("that is no SMTP reply")
        self._octets += len(line) + 2
        if len(self._heard) >= self._limits.lines or self._octets > self._limits.octets:
            raise PeerBroke("the reply is too long")
        code, dash, text = found.groups()
        if self._heard and code != self._code:  # RFC 5321 §4.2.1: the same on every line
            raise PeerBroke("the lines of a reply have different codes")
        self._code = code
        self._heard.append(text or b"")
        if dash == b"-":
            return None
        heard, self._heard, self._octets = self._heard, [], 0
        return _reply(int(code), heard)


class DotStuffer:
    """Turn content into what is sent after DATA (RFC 5321 §4.5.2), in pieces of any size.

    A bare CR or LF becomes CRLF: a next hop that takes it for a line end must not see one that we did not stuff.
    """

    __slots__ = ("_held", "_line_start")

    def __init__(self) -> None:
        self._line_start = True
        self._held = b""

    def stuff(self, chunk: bytes) -> bytes:
        """Return the octets to send for a piece of the mail; a CR at its end waits for what follows."""
        text = self._held + chunk
        self._held = b""
        if text.endswith(b"\r"):
            self._held = b"\r"
            text = text[:-1]
        if not text:
            return b""
        if not crlf_only(text):
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        stuffed = text.replace(b"\r\n.", b"\r\n..")
        if self._line_start and stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        self._line_start = text.endswith(b"\r\n")
        return stuffed

    def end(self) -> bytes:
        """Return what ends the mail."""
        held = b"\r\n" if self._held else b""
        return held + (b".\r\n" if held or self._line_start else b"\r\n.\r\n")


def ehlo(name: str) -> bytes:
    """Build EHLO."""
    return _hello(b"EHLO", name)


def helo(name: str) -> bytes:
    """Build HELO, for a server that does not know EHLO."""
    return _hello(b"HELO", name)


def lhlo(name: str) -> bytes:
    """Build LHLO (RFC 2033 §4.1)."""
    return _hello(b"LHLO", name)


def mail(
    sender: ReversePath,
    *,
    size: int = 0,
    eight_bit: bool = False,
    smtputf8: bool = False,
    ret: str = "",
    envid: str = "",
    requiretls: bool = False,
    priority: int = 0,
    by: By | None = None,
) -> bytes:
    """Build MAIL FROM; give only parameters that the server offered. `envid` is decoded text."""
    words = [f"MAIL FROM:{path_text(sender)}".encode()]
    if size:
        words.append(b"SIZE=%d" % size)
    if eight_bit:
        words.append(b"BODY=8BITMIME")
    if smtputf8:
        words.append(b"SMTPUTF8")
    if ret:
        words.append(b"RET=" + ret.encode("ascii"))
    if envid:
        words.append(b"ENVID=" + xtext_encode(envid.encode()))
    if requiretls:
        words.append(b"REQUIRETLS")
    if priority:
        words.append(b"MT-PRIORITY=%d" % priority)
    if by is not None:
        words.append(b"BY=%d;%b%b" % (by.seconds, b"R" if by.returns else b"N", b"T" if by.trace else b""))
    return _command(words)


def rcpt(recipient: Address, *, notify: Iterable[Notify] | None = None, orcpt: str = "") -> bytes:
    """Build RCPT TO. `orcpt` stands as it is written, `type;xtext`."""
    words = [f"RCPT TO:{path_text(recipient)}".encode()]
    if notify is not None:
        words.append(b"NOTIFY=" + ",".join(sorted(each.value for each in notify)).encode())
    if orcpt:
        if " " in orcpt:
            raise ValueError("a blank in ORCPT")
        words.append(b"ORCPT=" + orcpt.encode())
    return _command(words)


def bdat(size: int, *, last: bool) -> bytes:
    """Build BDAT; `size` octets of content follow as they are."""
    return b"BDAT %d LAST\r\n" % size if last else b"BDAT %d\r\n" % size


def auth_plain(user: str, password: str) -> bytes:
    """Build AUTH PLAIN with its initial response (RFC 4954 §4)."""
    return _command([b"AUTH PLAIN", sasl.encode(sasl.plain_response(user, password)) or b"="])


def auth_login(user: str, password: str) -> tuple[bytes, bytes, bytes]:
    """Build AUTH LOGIN and its two responses, each sent after a 334."""
    first, second = sasl.login_responses(user, password)
    return b"AUTH LOGIN\r\n", sasl.encode(first) + b"\r\n", sasl.encode(second) + b"\r\n"


def _least_time(offered: str | None) -> int | None:
    if offered is None:
        return None
    least = offered.partition(",")[0].strip()
    return int(least) if re.fullmatch("[0-9]{1,9}", least) else 0


def _hello(verb: bytes, name: str) -> bytes:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a name to say hello with")
    return b"%s %s\r\n" % (verb, name.encode("ascii"))


def _command(words: Sequence[bytes]) -> bytes:
    line = b" ".join(words)
    if b"\r" in line or b"\n" in line or b"\0" in line:
        raise ValueError("CR, LF or NUL in a command's argument")
    return line + b"\r\n"


def _reply(code: int, heard: Sequence[bytes]) -> HeardReply:
    lines = [_printable(line) for line in heard]
    found = _ENHANCED.match(lines[0])
    if found is None or found[1][0] != str(code)[0]:
        return HeardReply(code, "", tuple(lines))
    lead = found[1]
    return HeardReply(code, lead, tuple(line.removeprefix(lead).lstrip(" ") for line in lines))


def _printable(line: bytes) -> str:
    text = line.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
