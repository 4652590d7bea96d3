"""Make a mail fit for a next hop that takes less: 7-bit octets (RFC 6152 §3), lines of 998 (RFC 5321 §4.5.3.1.6).

    recode(mail, seven_bit=True)      octets below 128 and short lines; raises Unrecodable
    recode(mail, seven_bit=False)     short lines

The body of a part that needs it becomes quoted-printable or base64 (RFC 2045 §6.7, §6.8) and says so; every other
octet stays where it is, and what the parts decode to stays the same. Embedded messages are walked too. A signature
over what was recoded does not hold any more: `signed` tells whether there is one.

Not recoded: a header with 8-bit octets (that takes SMTPUTF8), the inside of multipart/signed and
multipart/encrypted (RFC 1847 §2.1), message/partial and message/external-body (RFC 2046 §5.2), and parts that two
readers may see differently: to recode one reading would change the other.
"""

import re
from binascii import a2b_qp, b2a_base64, b2a_qp
from collections.abc import Iterator
from typing import Final, NamedTuple

from gatepost.codec.mail.header import Flaw, HeaderBlock
from gatepost.codec.mail.structure import AMBIGUOUS_STRUCTURE, IDENTITIES, Fault, Part, Range, parse
from gatepost.codec.smtp.data import LINE_MAX, crlf_only

_UNSURE: Final = AMBIGUOUS_STRUCTURE - {Fault.DEEP} | {Fault.UNKNOWN_ENCODING}
_HEADER_ENDS_EARLY: Final = frozenset((Flaw.NO_COLON, Flaw.LEADING_SPACE))  # some readers begin the body there
_FROZEN: Final = frozenset(
    (b"multipart/signed", b"multipart/encrypted", b"message/partial", b"message/external-body")
)
_OPAQUE: Final = frozenset((b"message/global",))  # RFC 6532 §3.7: may be encoded as a whole
_SIGNATURES: Final = frozenset((b"dkim-signature", b"arc-message-signature"))

_PIECE: Final = 1 << 16  # octets that one call into C encodes: it holds the interpreter meanwhile
_BASE64_LINE: Final = 57  # octets that make a line of 76
_HIGH: Final = bytes(range(128, 256))
_NOT_BASE64: Final = bytes(
    set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
)
_SHORT_LINES: Final = re.compile(rb"(?:[^\n]{0,%d}\n)*+[^\n]{0,%d}" % (LINE_MAX + 1, LINE_MAX))
_LINE_76: Final = re.compile(rb".{76}(?=.)")
_WIDE: Final = re.compile(rb"^([^\n]{74,75})(=[0-9A-F]{2}(?:\r\n|\Z))", re.MULTILINE)


class Unrecodable(ValueError):
    """The mail has no other form; the text says why, for its sender."""


class _Edit(NamedTuple):
    """Put `octets` in the place of [start, end)."""

    start: int
    end: int
    octets: bytes


def needs_seven_bit(mail: bytes) -> bool:
    """Tell whether a server without 8BITMIME could not take the mail as it is."""
    return not mail.isascii()


def needs_short_lines(mail: bytes) -> bool:
    """Tell whether a line is longer than SMTP allows."""
    return _SHORT_LINES.fullmatch(mail) is None


def signed(mail: bytes) -> bool:
    """Tell whether the header has a signature over the body (RFC 6376, RFC 8617)."""
    return not HeaderBlock.parse(mail).lacks(_SIGNATURES)


def header_needs_utf8(mail: bytes) -> bool:
    """Tell whether a header has other than ASCII, the mail's own or that of a part (RFC 6532 §3.2, §3.5)."""
    return not mail.isascii() and any(not part.header.octets.isascii() for part in parse(mail).walk())


def recode(mail: bytes, *, seven_bit: bool) -> bytes:
    """Return the mail in a form with short lines and, where asked for, without 8-bit octets; see above.

    Bare CR and LF become CRLF. Takes about 40 ms for a megabyte: not for the event loop.
    """
    if not crlf_only(mail):
        mail = mail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    recoded = _Recoding(mail, seven_bit=seven_bit).run()
    if seven_bit and not recoded.isascii():
        raise Unrecodable("it has 8-bit octets outside of its parts")
    return recoded


class _Recoding:
    """One walk over one mail, collecting edits."""

    def __init__(self, mail: bytes, *, seven_bit: bool) -> None:
        self._mail = mail
        self._seven_bit = seven_bit
        self._edits: list[_Edit] = []
        self._mime_since: set[int] = set()

    def run(self) -> bytes:
        root = parse(self._mail)
        waiting = [(root, root)]
        while waiting:
            part, message = waiting.pop()
            waiting += [(child, child if part.message else message) for child in self._part(part, message)]
        if self._edits and Fault.TOO_MANY_PARTS in root.faults:
            raise Unrecodable(Fault.TOO_MANY_PARTS.value)
        return self._edited()

    def _part(self, part: Part, message: Part) -> list[Part]:
        """Collect the edits of one part; return the parts below it that are to be looked at too."""
        if part.content_type.value in _FROZEN:
            if not self._fits(part.start, part.end):
                raise Unrecodable(f"{part.content_type.value.decode('ascii', 'replace')} must not be changed")
            return []
        if self._seven_bit and not part.header.octets.isascii():
            raise Unrecodable("a header has 8-bit octets")
        if part.content_type.value in _OPAQUE or not (part.multipart or part.message):
            self._leaf(part, message)
            return []
        if self._seven_bit:
            for outside in (part.preamble, part.epilogue):
                self._outside(part, outside)
            if part.encoding != b"7bit":
                self._label(part, message, b"7bit")
        return part.children

    def _fits(self, start: int, end: int) -> bool:
        octets = self._mail[start:end]
        return _SHORT_LINES.fullmatch(octets) is not None and (not self._seven_bit or octets.isascii())

    def _leaf(self, part: Part, message: Part) -> None:
        if self._fits(part.body, part.end):
            if self._seven_bit and part.encoding in (b"8bit", b"binary"):
                self._label(part, message, b"7bit")
            return
        if part.encoding in IDENTITIES:
            encoding = _best_encoding(part, self._mail[part.body : part.end])
            self._label(part, message, encoding)
        else:
            _certain(part)
            encoding = part.encoding
        if part.header.first(b"content-type") is None and part.content_type.value == b"text/plain":
            self._insert(part, b"Content-Type: text/plain; charset=" + _charset(self._mail, part))
        self._edits.append(_Edit(part.body, part.end, b"".join(self._encoded(part, encoding))))

    def _encoded(self, part: Part, encoding: bytes) -> Iterator[bytes]:
        body = self._mail[part.body : part.end]
        if part.encoding not in IDENTITIES:
            return _mended_base64(body) if encoding == b"base64" else _quoted(_unquoted(body))
        return _base64(body) if encoding == b"base64" else _quoted(body)

    def _outside(self, part: Part, outside: Range | None) -> None:
        """Take 8-bit octets out of a preamble or epilogue, which no reader shows (RFC 2046 §5.1.1)."""
        if outside is None:
            return
        text = self._mail[outside.start : outside.end]
        if not text.isascii():
            _certain(part)
            self._edits.append(_Edit(outside.start, outside.end, text.translate(_QUESTIONED)))

    def _label(self, part: Part, message: Part, encoding: bytes) -> None:
        """Say how a part is encoded now, and that the message has MIME at all (RFC 2045 §4)."""
        _certain(part)
        stated = part.header.all(b"content-transfer-encoding")
        value = b"Content-Transfer-Encoding: " + encoding
        if stated:
            self._edits.append(_Edit(stated[0].start, stated[0].end, value + b"\r\n"))
        else:
            self._insert(part, value)
        if message.start not in self._mime_since and b"mime-version" not in message.header:
            self._insert(message, b"MIME-Version: 1.0")
        self._mime_since.add(message.start)

    def _insert(self, part: Part, field: bytes) -> None:
        at = part.header.fields_end
        self._edits.append(_Edit(at, at, field + b"\r\n"))

    def _edited(self) -> bytes:
        pieces, at = [], 0
        for edit in sorted(self._edits, key=lambda each: each.start):
            pieces += [self._mail[at : edit.start], edit.octets]
            at = edit.end
        pieces.append(self._mail[at:])
        return b"".join(pieces)


_QUESTIONED: Final = bytes(range(128)) + b"?" * 128


def _certain(part: Part) -> None:
    """See that all readers see the part as we do; raises Unrecodable."""
    unsure = {fault.value for fault in part.faults & _UNSURE} | {
        flaw.value for flaw in part.header.flaws & _HEADER_ENDS_EARLY
    }
    if unsure:
        raise Unrecodable("; ".join(sorted(unsure)))


def _best_encoding(part: Part, body: bytes) -> bytes:
    """Choose quoted-printable for text that stays readable in it (two thirds of it ASCII), base64 for all else."""
    if part.maintype not in (b"text", b"message"):
        return b"base64"
    high = len(body) - len(body.translate(None, _HIGH))
    return b"quoted-printable" if high * 3 <= len(body) else b"base64"


def _charset(mail: bytes, part: Part) -> bytes:
    """Name the charset of a text without Content-Type: UTF-8 is unmistakable, the rest unknown (RFC 1428 §3)."""
    body = mail[part.body : part.end]
    if body.isascii():
        return b"us-ascii"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return b"unknown-8bit"
    return b"utf-8"


def _whole_lines(body: bytes) -> Iterator[bytes]:
    """Yield pieces of about 64 KiB that end behind a CRLF."""
    at = 0
    while at < len(body):
        end = body.find(b"\r\n", at + _PIECE)
        end = len(body) if end < 0 else end + 2
        yield body[at:end]
        at = end


def _quoted(body: bytes) -> Iterator[bytes]:
    for lines in _whole_lines(body):
        text = b2a_qp(lines, istext=True)
        if b"\r" not in text:  # without a CRLF to learn from, its soft line breaks are LF
            text = text.replace(b"\n", b"\r\n")
        yield _WIDE.sub(rb"\1=\r\n\2", text)


def _unquoted(body: bytes) -> bytes:
    return b"".join(a2b_qp(lines) for lines in _whole_lines(body))


def _base64(body: bytes) -> Iterator[bytes]:
    step = _PIECE // _BASE64_LINE * _BASE64_LINE
    for at in range(0, len(body), step):
        last = at + step >= len(body)
        text = _lines_of_76(b2a_base64(body[at : at + step], newline=False))
        yield text if last and not body.endswith(b"\r\n") else text + b"\r\n"


def _mended_base64(body: bytes) -> Iterator[bytes]:
    """Take out what is not base64, as a reader does (RFC 2045 §6.8), and break the lines anew."""
    text = body.translate(None, _NOT_BASE64)
    yield _lines_of_76(text)
    if body.endswith(b"\r\n"):
        yield b"\r\n"


def _lines_of_76(text: bytes) -> bytes:
    return _LINE_76.sub(rb"\g<0>\r\n", text)
