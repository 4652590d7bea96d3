"""The MIME structure of a mail as a tree of offsets (RFC 2045, RFC 2046): what BODY[1.2] is cut by.

One walk over the lines that begin with `--`, whatever the depth: each is looked up among the boundaries that stand
open, so an outer boundary ends what is open inside it (RFC 2046 §5.1.2). No recursion; 1,000 parts and 100 levels,
then the rest is one leaf. The CRLF before a delimiter belongs to the delimiter.

Where readers disagree (a second Content-Type, a boundary given twice, parts outside the boundaries, an odd
Content-Transfer-Encoding) the first reading is taken and the part carries a Fault, so that nobody calls it clean.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple

from gatepost.codec.mail.header import AMBIGUOUS, HEADER_MAX, Buffer, Flaw, HeaderBlock
from gatepost.codec.mail.params import ParameterFlaw, Parameters, parse_parameters, without_comments

PARTS_MAX: Final = 1_000
DEPTH_FLAG: Final = 50
DEPTH_MAX: Final = 100
BOUNDARY_LEGAL: Final = 70  # RFC 2046 §5.1.1
BOUNDARY_MAX: Final = 200
ENCODINGS: Final = frozenset((b"7bit", b"8bit", b"binary", b"quoted-printable", b"base64"))  # RFC 2045 §6.1
IDENTITIES: Final = frozenset(
    (b"7bit", b"8bit", b"binary")
)  # RFC 2045 §6.4: all that a multipart or message may have
_DELIMITER_LINE_MAX: Final = 998  # RFC 5322 §2.1.1: padding beyond it makes no delimiter
_MISSES_MAX: Final = 2_000  # after so many lines with -- that are no delimiter they are looked at by the chunk
_CHUNK: Final = 1 << 16
_DASHED: Final = re.compile(rb"\n--([^\n]*[^ \t\r\n])")
_HEADER_NEAR: Final = 4096  # most part headers end within so many octets
_OUTSIDE_MAX: Final = 256 * 1024  # of a preamble or epilogue so much is looked at
_LIKE_A_PART: Final = re.compile(rb"\n(?:content-[a-z-]{3,40}[ \t]*:|begin [0-7]{3,4} )", re.IGNORECASE)
_SLICE: Final = 1 << 20


class Fault(Enum):
    """Why a structure can be read in more than one way, is broken, or was not read to its end."""

    HEADER = "a part whose header is ambiguous"
    TWO_TYPES = "a part with two Content-Types"
    TWO_ENCODINGS = "a part with two encodings"
    TWO_BOUNDARIES = "a Content-Type with two boundaries"
    TWICE = "a Content-Type with a parameter given twice"
    TOO_MANY_PARAMETERS = "more than 200 parameters"
    BAD_TYPE = "a Content-Type that is none"
    ODD_ENCODING = "an encoding with a comment, quotes or a NUL"
    UNKNOWN_ENCODING = "an encoding that is not one of the five"
    ENCODED_COMPOSITE = "a multipart or a message that is encoded as a whole"
    NO_BOUNDARY = "a multipart whose boundary is missing or never comes"
    LONG_BOUNDARY = "a boundary of more than 70 octets"
    REUSED_BOUNDARY = "a multipart with the boundary of one around it"
    UNCLOSED = "a multipart that does not end"
    AFTER_CLOSE = "a delimiter behind the closing one"
    PREAMBLE = "what looks like a part before the first delimiter"
    EPILOGUE = "what looks like a part behind the last delimiter"
    DEEP = "50 levels or more"
    TOO_DEEP = "100 levels: what is deeper was not looked at"
    TOO_MANY_PARTS = "1,000 parts: what follows was not looked at"


AMBIGUOUS_STRUCTURE: Final = frozenset(Fault) - {
    Fault.BAD_TYPE,
    Fault.TWICE,
    Fault.UNKNOWN_ENCODING,
    Fault.LONG_BOUNDARY,
    Fault.UNCLOSED,
}
"""Faults with which two readers may see different attachments, so that no scanner may call the mail clean."""

_PLAIN: Final = parse_parameters(
    b"text/plain"
)  # RFC 2045 §5.2: the default, and what cannot be read is taken for it
_MESSAGE: Final = parse_parameters(b"message/rfc822")  # RFC 2046 §5.1.5: the default in a multipart/digest
_OPAQUE: Final = b"application/octet-stream"
_MESSAGE_TYPES: Final = frozenset((b"message/rfc822", b"message/global"))  # RFC 6532 §3.7


_SHIFTING: Final = AMBIGUOUS - {Flaw.NO_FROM, Flaw.MULTIPLE_FROM, Flaw.BARE_LF}
"""Flaws of a header that may hide a field of MIME from one of two readers."""


class Range(NamedTuple):
    """Octets [start, end) of the raw mail."""

    start: int
    end: int


class Part:
    """One part: its header `[start, body)`, its body `[body, end)`; not to be changed once `parse` returned it.

    `content_type` is what it is treated as: a multipart without its boundary is text/plain, one too deep to be
    opened application/octet-stream. `encoding` is in lower case, `7bit` when none is given. `lines` is counted for
    text and messages only. `faults` are its own, `all_faults` also those of the parts below it.
    """

    __slots__ = (
        "body", "children", "content_type", "encoding", "end", "epilogue", "faults", "header", "lines", "preamble",
        "start",
    )  # fmt: skip

    def __init__(self, header: HeaderBlock, content_type: Parameters) -> None:
        self.header = header
        self.start = header.start
        self.body = header.end
        self.end = header.end
        self.content_type = content_type
        self.encoding = b"7bit"
        self.children: list[Part] = []
        self.lines = 0
        self.preamble: Range | None = None
        self.epilogue: Range | None = None
        self.faults: set[Fault] = set()

    @property
    def maintype(self) -> bytes:
        """The media type in lower case: `text` of `text/plain`."""
        return self.content_type.value.partition(b"/")[0]

    @property
    def subtype(self) -> bytes:
        """The media subtype in lower case: `plain` of `text/plain`."""
        return self.content_type.value.partition(b"/")[2]

    @property
    def multipart(self) -> bool:
        """Tell whether its children are its body."""
        return self.content_type.value.startswith(b"multipart/")

    @property
    def message(self) -> bool:
        """Tell whether its one child is an embedded message."""
        return self.content_type.value in _MESSAGE_TYPES

    @property
    def disposition(self) -> Parameters | None:
        """Content-Disposition (RFC 2183); None when there is none."""
        value = self.header.first(b"content-disposition")
        return None if value is None else parse_parameters(value)

    def filenames(self) -> tuple[str, ...]:
        """Return every name that some reader may give to the file, the likeliest first (RFC 2183 §2.3)."""
        disposition = self.disposition
        stated = () if disposition is None else disposition.all_texts(b"filename")
        return tuple(dict.fromkeys((*stated, *self.content_type.all_texts(b"name"))))

    def walk(self) -> Iterator["Part"]:
        """Yield this part and all below it, in the order of the mail."""
        waiting = [self]
        while waiting:
            part = waiting.pop()
            yield part
            waiting.extend(reversed(part.children))

    def all_faults(self) -> frozenset[Fault]:
        """Return the faults of this part and of all below it."""
        return frozenset[Fault]().union(*(part.faults for part in self.walk()))


def parse(raw: Buffer, header: HeaderBlock | None = None) -> Part:
    """Read a mail's structure; `header` saves reading its header again. Never raises, whatever the octets are."""
    return _Walk(raw).run(HeaderBlock.parse(raw) if header is None else header)


def count_lines(raw: Buffer, start: int, end: int) -> int:
    """Return how many lines [start, end) has; the last one may lack its line end."""
    return _count_line_feeds(raw, start, end) + _lacks_line_end(raw, start, end)


def _count_line_feeds(raw: Buffer, start: int, end: int) -> int:
    if isinstance(raw, bytes):
        return raw.count(b"\n", start, end)
    return sum(raw[at : min(at + _SLICE, end)].count(b"\n") for at in range(start, end, _SLICE))


def _lacks_line_end(raw: Buffer, start: int, end: int) -> bool:
    return end > start and raw[end - 1] != 0x0A


class _Delimiter(NamedTuple):
    """A delimiter line: `at` its first octet, `after` behind its line end, `level` its multipart on the stack."""

    at: int
    after: int
    level: int
    closing: bool


class _Open:
    """A part on the stack; `boundary` is empty for a leaf, `closed` behind its closing delimiter or -1.

    `line_feeds` is, for a message, how many the walk had counted where its body begins.
    """

    __slots__ = ("boundary", "closed", "line_feeds", "part")

    def __init__(self, part: Part, boundary: bytes) -> None:
        self.part = part
        self.boundary = boundary
        self.closed = -1
        self.line_feeds = 0


class _Walk:
    """The walk over one mail: the open parts, outermost first, and where each open boundary is among them.

    Line feeds inside embedded messages are counted along the way, once for all messages that hold them.
    """

    __slots__ = (
        "_boundaries", "_count", "_counted_to", "_line_feeds", "_messages", "_misses", "_raw", "_size", "_stack",
        "_worth_until",
    )  # fmt: skip

    def __init__(self, raw: Buffer) -> None:
        self._raw = raw
        self._size = len(raw)
        self._stack: list[_Open] = []
        self._boundaries: dict[bytes, int] = {}
        self._misses = self._worth_until = 0
        self._count = 0
        self._messages = self._counted_to = self._line_feeds = 0

    def run(self, header: HeaderBlock) -> Part:
        self._enter(header, _PLAIN)
        root = self._stack[0].part
        at = self._stack[-1].part.body - 1
        while self._boundaries and (delimiter := self._next(at, self._size)) is not None:
            at = self._take(delimiter)
            if self._count >= PARTS_MAX:
                root.faults.add(Fault.TOO_MANY_PARTS)
                break
        self._leave(0, self._size)
        return root

    def _take(self, delimiter: _Delimiter) -> int:
        """Act on a delimiter; return the octet before the line where the search goes on."""
        opened = self._stack[delimiter.level]
        part = opened.part
        if opened.closed >= 0:
            part.faults.add(Fault.AFTER_CLOSE)
            self._forget(opened)  # to see one is enough: a mail may have millions of them
            return delimiter.after - 1
        before = self._line_end_before(delimiter.at)
        self._leave(delimiter.level + 1, before)
        if part.preamble is None:
            part.preamble = Range(part.body, max(part.body, before))
        if delimiter.closing:
            opened.closed = delimiter.after
            return delimiter.after - 1
        default = _MESSAGE if part.content_type.value == b"multipart/digest" else _PLAIN
        self._enter(self._part_header(delimiter.after), default)
        return self._stack[-1].part.body - 1

    def _line_end_before(self, at: int) -> int:
        """Return where the line end before `at` begins: it belongs to the delimiter (RFC 2046 §5.1.1)."""
        if at and self._raw[at - 1] == 0x0A:
            at -= 1
            if at and self._raw[at - 1] == 0x0D:
                at -= 1
        return at

    def _part_header(self, start: int) -> HeaderBlock:
        """Parse a part's header; a delimiter inside it ends it.

        Not more is read than lies before the next delimiter, or each of 1,000 parts whose header does not end
        would cost what the largest header costs.
        """
        raw = self._raw
        if not self._boundaries:
            return HeaderBlock.parse(raw, start)
        blank = raw.find(b"\n\r\n", start - 1, start + _HEADER_NEAR)
        end = blank + 3 if blank >= 0 else self._size
        delimiter = self._next(start - 1, blank if blank >= 0 else start + HEADER_MAX)
        return HeaderBlock.parse(raw, start, end if delimiter is None else delimiter.at)

    def _enter(self, header: HeaderBlock, default: Parameters) -> None:
        """Put a part on the stack, and the messages inside it."""
        while True:
            part = Part(header, default)
            self._count += 1
            boundary = self._describe(part)
            if boundary or part.message:
                self._bound_depth(part)
                boundary = boundary if part.multipart else b""
            if self._stack:
                self._stack[-1].part.children.append(part)
            opened = _Open(part, boundary)
            self._stack.append(opened)
            if boundary:
                self._boundaries[boundary] = len(self._stack) - 1
            if not part.message:
                return
            opened.line_feeds = self._line_feeds_before(part.body)
            self._messages += 1
            header, default = self._part_header(part.body), _PLAIN

    def _bound_depth(self, part: Part) -> None:
        depth = len(self._stack) + 1
        if depth >= DEPTH_FLAG:
            part.faults.add(Fault.DEEP)
        if depth >= DEPTH_MAX:
            part.faults.add(Fault.TOO_DEEP)
        if depth >= DEPTH_MAX or (part.message and self._count >= PARTS_MAX):
            part.content_type = Parameters(_OPAQUE, part.content_type.params)

    def _describe(self, part: Part) -> bytes:
        """Fill in what the header says of the body; return the boundary, empty when it has none to be used."""
        header = part.header
        if header.flaws:
            _note_header(part)
        stated = header.first(b"content-type")
        if stated is not None:
            part.content_type = _content_type(part, stated)
        encoding = header.first(b"content-transfer-encoding")
        if encoding:
            part.encoding = _encoding(part, encoding)
        if part.message:
            if (
                part.encoding not in IDENTITIES
            ):  # RFC 2046 §5.2.1: to be decoded first, which no reader of IMAP does
                part.faults.add(Fault.ENCODED_COMPOSITE)
                part.content_type = Parameters(_OPAQUE, part.content_type.params)
        elif part.multipart:
            if part.encoding not in IDENTITIES:
                part.faults.add(Fault.ENCODED_COMPOSITE)
            return self._boundary(part)
        return b""

    def _boundary(self, part: Part) -> bytes:
        boundary = (part.content_type.get(b"boundary") or b"").rstrip(b" \t")
        if len(boundary) > BOUNDARY_LEGAL:
            part.faults.add(Fault.LONG_BOUNDARY)
        if boundary in self._boundaries:
            part.faults.add(Fault.REUSED_BOUNDARY)
        elif not boundary or len(boundary) > BOUNDARY_MAX or b"\r" in boundary or b"\n" in boundary:
            part.faults.add(Fault.NO_BOUNDARY)
        else:
            return boundary
        part.content_type = _PLAIN
        return b""

    def _leave(self, level: int, end: int) -> None:
        """Close the parts from `level` up; their bodies end at `end`, or where they began if that is later."""
        while len(self._stack) > level:
            opened = self._stack.pop()
            part = opened.part
            part.end = end = max(part.body, end)  # a child's blank line may be the CRLF before the delimiter
            if opened.boundary:
                self._forget(opened)
                self._close_multipart(opened)
            if part.message:
                line_feeds = self._line_feeds_before(end) - opened.line_feeds
                part.lines = line_feeds + _lacks_line_end(self._raw, part.body, end)
                self._messages -= 1
            elif part.maintype == b"text":
                part.lines = count_lines(self._raw, part.body, end)

    def _forget(self, opened: _Open) -> None:
        """Look no more for a multipart's delimiters."""
        self._boundaries.pop(opened.boundary, None)

    def _line_feeds_before(self, at: int) -> int:
        """Return how many line feeds stand before `at`, counted from where the outermost message began."""
        if self._messages:
            self._line_feeds += _count_line_feeds(self._raw, self._counted_to, at)
        self._counted_to = at
        return self._line_feeds

    def _close_multipart(self, opened: _Open) -> None:
        part = opened.part
        if not part.children:
            part.faults.add(Fault.NO_BOUNDARY)
            part.content_type, part.preamble = _PLAIN, None
            return
        if opened.closed < 0:
            part.faults.add(Fault.UNCLOSED)
        else:
            part.epilogue = Range(min(opened.closed, part.end), part.end)
            if self._like_a_part(part.epilogue):
                part.faults.add(Fault.EPILOGUE)
        if part.preamble is not None and self._like_a_part(part.preamble):
            part.faults.add(Fault.PREAMBLE)

    def _like_a_part(self, outside: Range) -> bool:
        if outside.end - outside.start < len("content-id:"):
            return False
        end = min(outside.end, outside.start + _OUTSIDE_MAX)
        return _LIKE_A_PART.search(self._raw, max(outside.start - 1, 0), end) is not None

    def _next(self, at: int, limit: int) -> _Delimiter | None:
        """Find the next delimiter of an open multipart; `at` is the line feed before a line, or -1."""
        raw, boundaries = self._raw, self._boundaries
        while (at := raw.find(b"\n--", max(at, 0), limit)) >= 0:
            if self._misses > _MISSES_MAX and at >= self._worth_until:
                at = self._skip(at, limit)
                continue
            stop = raw.find(b"\n", at + 3, at + 3 + _DELIMITER_LINE_MAX)
            after = stop + 1 if stop >= 0 else self._size
            if after - at <= _DELIMITER_LINE_MAX:
                text = raw[at + 3 : after].rstrip(b" \t\r\n")
                if text in boundaries:
                    return _Delimiter(at + 1, after, boundaries[text], closing=False)
                if text.endswith(b"--") and text[:-2] in boundaries:
                    return _Delimiter(at + 1, after, boundaries[text[:-2]], closing=True)
            self._misses += 1
            at += 1
        return None

    def _skip(self, at: int, limit: int) -> int:
        """Return where a chunk begins that may have a delimiter, `limit` when there is none.

        That chunk is worth looking at line by line. So a mail full of `--` costs little.
        """
        texts = {*self._boundaries, *(name + b"--" for name in self._boundaries)}
        while at < limit:
            end = min(at + _CHUNK, limit)
            if not texts.isdisjoint(_DASHED.findall(self._raw, at, min(end + _DELIMITER_LINE_MAX, self._size))):
                self._worth_until = end
                return at
            at = end
        return limit


def _note_header(part: Part) -> None:
    flaws = part.header.flaws
    if Flaw.MULTIPLE_CONTENT_TYPE in flaws:
        part.faults.add(Fault.TWO_TYPES)
    if Flaw.DUPLICATE in flaws and len(part.header.all(b"content-transfer-encoding")) > 1:
        part.faults.add(Fault.TWO_ENCODINGS)
    if not flaws.isdisjoint(_SHIFTING):
        part.faults.add(Fault.HEADER)


def _content_type(part: Part, stated: bytes) -> Parameters:
    value = parse_parameters(stated)
    if value.flaws:
        _note_parameters(part, value)
    kind, _, subtype = value.value.partition(b"/")
    if kind and subtype:
        return value
    part.faults.add(Fault.BAD_TYPE)
    return Parameters(_PLAIN.value, value.params)


def _note_parameters(part: Part, value: Parameters) -> None:
    if ParameterFlaw.TOO_MANY in value.flaws:
        part.faults.add(Fault.TOO_MANY_PARAMETERS)
    if ParameterFlaw.DUPLICATE in value.flaws:
        part.faults.add(Fault.TWICE)
    if sum(name == b"boundary" for name, _ in value.params) > 1:
        part.faults.add(Fault.TWO_BOUNDARIES)
    if ParameterFlaw.NUL in value.flaws:
        part.faults.add(Fault.HEADER)


def _encoding(part: Part, stated: bytes) -> bytes:
    """Return an encoding as it is most likely meant: readers differ on `base64 (x)` and `"base64"`."""
    encoding = stated.lower()
    if encoding in ENCODINGS:
        return encoding
    bare = without_comments(encoding).replace(b'"', b"").replace(b"\0", b"").strip(b" \t\r;")
    if bare != encoding:
        part.faults.add(Fault.ODD_ENCODING)
    if bare not in ENCODINGS:
        part.faults.add(Fault.UNKNOWN_ENCODING)
    return bare or b"7bit"
