"""The parts of a message by offset (RFC 2046 §5.1): what BODYSTRUCTURE tells and BODY[1.2] is cut by.

The reading is bounded: 100 levels, 1,000 parts, 200 parameters, boundaries of 200 octets. Beyond a bound the rest
is one opaque part and the message carries a Fault; so does one that two programs could cut differently.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gatepost.codec.mail.header import Buffer, Flaw, HeaderBlock
from gatepost.codec.mail.params import Parameters, parse_parameters

DEPTH_FLAG: Final = 50
DEPTH_MAX: Final = 100
PARTS_MAX: Final = 1000
BOUNDARY_MAX: Final = 200
ENCODINGS: Final = frozenset((b"7bit", b"8bit", b"binary", b"base64", b"quoted-printable"))
_TYPE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,80})/([!#$%&'*+.^_`|~0-9A-Za-z-]{1,80})")
_BLANK: Final = re.compile(rb"[ \t\r\n]*")


class Fault(Enum):
    """Why the structure can be read in more than one way, or was not read to its end."""

    DEEP = "more than 50 levels"
    TOO_DEEP = "more than 100 levels"
    TOO_MANY_PARTS = "more than 1,000 parts"
    TOO_MANY_PARAMETERS = "more than 200 parameters"
    TWO_BOUNDARIES = "a Content-Type with two boundaries"
    TWO_TYPES = "a part with two Content-Types"
    TWO_ENCODINGS = "a part with two encodings"
    ODD_ENCODING = "an encoding that is not one of the five"
    NO_BOUNDARY = "a multipart whose boundary is not found"
    UNCLOSED = "a multipart that does not end"
    EPILOGUE = "text behind the last part"
    PREAMBLE = "text before the first part"


@dataclass(slots=True)
class Part:
    """One part. Offsets: `start` of its header, `body` of its body, `end` behind its last octet."""

    header: HeaderBlock
    start: int
    body: int
    end: int
    lines: int
    maintype: bytes
    subtype: bytes
    content_type: Parameters
    encoding: bytes
    children: list["Part"] = field(default_factory=list)
    faults: set[Fault] = field(default_factory=set)
    """Of the whole message; only the root's set is filled."""

    @property
    def multipart(self) -> bool:
        """Tell whether its children are its body."""
        return self.maintype == b"multipart"

    @property
    def message(self) -> bool:
        """Tell whether its one child is an embedded message."""
        return self.maintype == b"message" and bool(self.children)

    def walk(self) -> Iterator["Part"]:
        """Yield this part and all below it, in order."""
        stack = [self]
        while stack:
            part = stack.pop()
            yield part
            stack.extend(reversed(part.children))


def parse(raw: Buffer) -> Part:
    """Read a message's structure; never raises, whatever the octets are."""
    reading = _Reading(raw)
    root = reading.part(0, len(raw), 0, digest=False)
    root.faults = reading.faults
    return root


class _Reading:
    def __init__(self, raw: Buffer) -> None:
        self.raw = raw
        self.faults: set[Fault] = set()
        self.parts = 0

    def part(self, start: int, end: int, depth: int, *, digest: bool) -> Part:
        """Read the entity in [start, end)."""
        self.parts += 1
        header = HeaderBlock.parse(self.raw, start, end)
        part = self._described(header, start, end, digest=digest)
        if depth > DEPTH_FLAG:
            self.faults.add(Fault.DEEP)
        if depth >= DEPTH_MAX:
            if part.maintype in (b"multipart", b"message"):
                self.faults.add(Fault.TOO_DEEP)
                _opaque(part)
        elif part.multipart:
            self._children(part, depth)
        elif _embeds(part) and self.parts < PARTS_MAX:
            part.children.append(self.part(part.body, part.end, depth + 1, digest=False))
        if part.maintype == b"text" or part.message:
            part.lines = _lines(self.raw, part.body, part.end)
        return part

    def _described(self, header: HeaderBlock, start: int, end: int, *, digest: bool) -> Part:
        value = header.first(b"content-type")
        content_type = parse_parameters(value)
        named = _TYPE.fullmatch(content_type.value)
        fallback = (b"message", b"rfc822") if digest and value is None else (b"text", b"plain")
        maintype, subtype = (named[1], named[2]) if named else fallback
        encoding = (header.first(b"content-transfer-encoding") or b"7bit").strip().lower()
        self._doubts(header, content_type, encoding)
        return Part(header, start, header.end, max(end, header.end), 0, maintype, subtype, content_type, encoding)

    def _doubts(self, header: HeaderBlock, content_type: Parameters, encoding: bytes) -> None:
        if content_type.too_many:
            self.faults.add(Fault.TOO_MANY_PARAMETERS)
        if sum(name == b"boundary" for name, _ in content_type.params) > 1:
            self.faults.add(Fault.TWO_BOUNDARIES)
        if Flaw.MULTIPLE_CONTENT_TYPE in header.flaws:
            self.faults.add(Fault.TWO_TYPES)
        if Flaw.DUPLICATE in header.flaws and len(header.get(b"content-transfer-encoding")) > 1:
            self.faults.add(Fault.TWO_ENCODINGS)
        if encoding not in ENCODINGS:
            self.faults.add(Fault.ODD_ENCODING)

    def _children(self, part: Part, depth: int) -> None:
        boundary = part.content_type.get(b"boundary") or b""
        if not boundary or len(boundary) > BOUNDARY_MAX:
            self.faults.add(Fault.NO_BOUNDARY)
            _opaque(part)
            return
        digest = part.subtype == b"digest"
        begin, closed = -1, False
        for at, after, last in _delimiters(self.raw, b"--" + boundary, part.body, part.end):
            if begin >= 0:
                part.children.append(self.part(begin, max(begin, at), depth + 1, digest=digest))
            elif _BLANK.sub(b"", bytes(self.raw[part.body : min(at, part.body + 4096)])):
                self.faults.add(Fault.PREAMBLE)
            begin = after
            if last:
                closed = True
                if _BLANK.sub(b"", bytes(self.raw[after : min(part.end, after + 4096)])):
                    self.faults.add(Fault.EPILOGUE)
                break
            if self.parts >= PARTS_MAX:
                self.faults.add(Fault.TOO_MANY_PARTS)
                break
        if begin < 0:
            self.faults.add(Fault.NO_BOUNDARY)
            _opaque(part)
        elif not closed:
            self.faults.add(Fault.UNCLOSED)
            part.children.append(
                self.part(begin, part.end, DEPTH_MAX if self.parts >= PARTS_MAX else depth + 1, digest=digest)
            )


def _delimiters(raw: Buffer, mark: bytes, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (where the body before ends, where the next part begins, whether it closes) of each delimiter line."""
    at = start if raw[start : start + len(mark)] == mark else raw.find(b"\r\n" + mark, start, end)
    while at >= 0:
        behind = at + len(mark) + (2 if raw[at : at + 2] == b"\r\n" else 0)
        closes = raw[behind : behind + 2] == b"--"
        line_end = raw.find(b"\r\n", behind, end)
        rest = bytes(raw[behind + (2 if closes else 0) : line_end if line_end >= 0 else end])
        if not rest.strip(b" \t") or closes:
            yield at, (line_end + 2 if line_end >= 0 else end), closes
        following = line_end if line_end >= 0 else end
        at = raw.find(b"\r\n" + mark, following, end)


def _embeds(part: Part) -> bool:
    """Tell whether the body is a message in plain sight (RFC 2046 §5.2.1 allows no other encoding)."""
    plain = part.encoding in (b"7bit", b"8bit", b"binary")
    return plain and part.maintype == b"message" and part.subtype in (b"rfc822", b"global")


def _opaque(part: Part) -> None:
    """Show what cannot be cut as one piece of text."""
    part.maintype, part.subtype = b"text", b"plain"
    part.content_type = parse_parameters(b"text/plain")


def _lines(raw: Buffer, start: int, end: int) -> int:
    whole = bytes(raw[start:end])
    return whole.count(b"\r\n") + (1 if whole and not whole.endswith(b"\r\n") else 0)
