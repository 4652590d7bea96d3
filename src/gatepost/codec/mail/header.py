"""The header block as offsets: which octets are which field, and what is ambiguous about them (RFC 5322 §2.2).

The fields tile the block and nothing is decoded: a line that is no field stays in the list with an empty name. A
bare LF ends a line here, because every reader of mail takes it so, and is a flaw; a bare CR does not, and is a flaw
too. Whoever removes or replaces fields works with the octet ranges.

A block without flaws, as nearly all are, is tiled by a split; any other by a regular expression, which takes
twice as long and is the oracle of the first in the tests.

Where readers disagree (espoofer's cases) both readings meet here: `From : a` and a name folded before its colon
count as the field and are flawed.
"""

import mmap
import re
from enum import Enum
from itertools import accumulate
from typing import Final, NamedTuple, Self

Buffer = bytes | mmap.mmap

HEADER_MAX: Final = 256 * 1024
FIELD_MAX: Final = 64 * 1024
FIELDS_MAX: Final = 1_000


class Flaw(Enum):
    """What makes a header block ambiguous, illegal or too large."""

    NO_FROM = "no From field"
    MULTIPLE_FROM = "more than one From field"
    DUPLICATE = "a field twice that may stand once"
    MULTIPLE_CONTENT_TYPE = "more than one Content-Type field"
    LEADING_SPACE = "the first line begins with a blank"
    SPACE_BEFORE_COLON = "blanks between a field's name and its colon"
    NO_COLON = "a line that is no field"
    NUL = "a NUL octet"
    BARE_CR = "a CR without LF"
    BARE_LF = "a LF without CR"
    EIGHT_BIT = "octets above 127"
    TOO_BIG = "more than 256 KiB"
    TOO_MANY = "more than 1,000 fields"
    FIELD_TOO_BIG = "a field of more than 64 KiB"


AMBIGUOUS: Final = frozenset(
    (
        Flaw.NO_FROM,
        Flaw.MULTIPLE_FROM,
        Flaw.LEADING_SPACE,
        Flaw.SPACE_BEFORE_COLON,
        Flaw.NUL,
        Flaw.BARE_CR,
        Flaw.BARE_LF,
        Flaw.TOO_BIG,
        Flaw.TOO_MANY,
        Flaw.FIELD_TOO_BIG,
    )
)
"""Flaws with which a mail's author is not certain, so that no policy may pass on it."""

# RFC 5322 §3.6: at most once; RFC 2045 §3, RFC 2183 §2 likewise for MIME.
ONCE: Final = frozenset(
    b"from date sender reply-to to cc bcc message-id in-reply-to references subject mime-version content-type"
    b" content-transfer-encoding content-id content-description content-disposition".split()
)
_TWICE: Final = {b"from": Flaw.MULTIPLE_FROM, b"content-type": Flaw.MULTIPLE_CONTENT_TYPE}

_REPEATED: Final = frozenset((Flaw.DUPLICATE, *_TWICE.values()))

_NAME_OCTETS: Final = bytes(octet for octet in range(0x21, 0x7F) if octet != 0x3A)  # RFC 5322 §3.6.8 ftext
_NEXT_FIELD: Final = re.compile(rb"\n(?![ \t])")
# A name, blanks (also folded ones) before the colon, the colon; the line and its continuation lines.
_FIELD: Final = re.compile(
    rb"([^\x00-\x20:\x7f]*)([ \t]*(?:\r?\n[ \t]+)*)(:)?[^\n]*(?:\n[ \t][^\n]*)*\n?",
)
_BLANK_LINE: Final = re.compile(rb"(?:\A|(?<=\n))\r?\n")


class Field(NamedTuple):
    """A field's place: octets [start, end) with its line end; `name` in lower case, empty when it is no field.

    `colon` is the offset of the colon; without one, of the octet before `start`, so that the value is all of it.
    """

    name: bytes
    start: int
    end: int
    colon: int


class HeaderBlock:
    """The fields of one header block. Offsets count from the start of the buffer it was parsed from.

    `[start, fields_end)` holds the fields, `[fields_end, end)` the blank line (empty when it is missing), and the
    body begins at `end`. `octets` is a copy of the fields, so the buffer may be closed. Nothing in it changes; the
    places of the fields are worked out when they are first asked for.
    """

    __slots__ = ("_ends", "_fields", "_firsts", "_names", "end", "fields_end", "flaws", "octets", "start")

    start: int
    fields_end: int
    end: int
    flaws: frozenset[Flaw]
    octets: bytes
    _names: list[bytes]
    _ends: list[int]
    _firsts: dict[bytes, int]
    _fields: tuple[Field, ...] | None

    @classmethod
    def parse(cls, raw: Buffer, start: int = 0, end: int | None = None) -> Self:
        """Parse the block that begins at `start`, within `[start, end)`; never raises."""
        block = cls.__new__(cls)
        block.start = start
        block.octets, block.fields_end, block.end, flaws = _extent(raw, start, len(raw) if end is None else end)
        block._index(flaws)
        return block

    @property
    def fields(self) -> tuple[Field, ...]:
        """The places of all fields, in order."""
        if self._fields is None:
            start, at = self.start, self.start
            fields = []
            for name, end in zip(self._names, self._ends, strict=True):
                fields.append(Field(name, at, start + end, at + len(name)))
                at = start + end
            self._fields = tuple(fields)
        return self._fields

    def get(self, name: bytes) -> list[bytes]:
        """Return the raw values of all fields of that name, in order: folds and all, no line end."""
        at = self._firsts.get(name)
        if at is None:
            return []
        if self._fields is None and self._names.count(name) == 1:
            value = self.octets[self._begin(at) + len(name) + 1 : self._ends[at]]
            return [value.removesuffix(b"\n").removesuffix(b"\r")]
        return [self.value(field) for field in self.all(name)]

    def lacks(self, names: frozenset[bytes]) -> bool:
        """Tell whether there is no field of any of these names (lower case)."""
        return names.isdisjoint(self._firsts)

    def count(self, name: bytes) -> int:
        """Return how many fields have that name (lower case)."""
        return self._names.count(name) if name in self._firsts else 0

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of that name (lower case), unfolded and stripped; None when there is none."""
        at = self._firsts.get(name)
        if at is None:
            return None
        if self._fields is not None:
            return unfold(self.value(self._fields[at]))
        return unfold(self.octets[self._begin(at) + len(name) + 1 : self._ends[at]])

    def all(self, name: bytes) -> list[Field]:
        """Return the places of all fields of that name (lower case), in order."""
        if name not in self._firsts:
            return []
        return [field for field in self.fields if field.name == name]

    @property
    def repeated(self) -> bool:
        """Tell whether a field that may stand once stands more often."""
        return not _REPEATED.isdisjoint(self.flaws)

    def value(self, field: Field) -> bytes:
        """Return one field's raw value, without the line end."""
        value = self.octets[field.colon + 1 - self.start : field.end - self.start]
        return value.removesuffix(b"\n").removesuffix(b"\r")

    def pick(self, names: frozenset[bytes]) -> bytes:
        """Return the octets of all fields of these names (lower case), in order."""
        if self._fields is not None:
            return b"".join([self.raw_field(field) for field in self._fields if field.name in names])
        picked, at = [], 0
        for name, end in zip(self._names, self._ends, strict=True):
            if name in names:
                picked.append(self.octets[at:end])
            at = end
        return b"".join(picked)

    def raw_field(self, field: Field) -> bytes:
        """Return all of one field's octets, name and line end included."""
        return self.octets[field.start - self.start : field.end - self.start]

    def __contains__(self, name: bytes) -> bool:
        """Tell whether there is a field of that name (lower case)."""
        return name in self._firsts

    @property
    def ambiguous(self) -> bool:
        """Tell whether two readers may see different authors."""
        return not AMBIGUOUS.isdisjoint(self.flaws)

    def _begin(self, at: int) -> int:
        return self._ends[at - 1] if at else 0

    def _index(self, flaws: set[Flaw]) -> None:
        self._fields = None
        if flaws or not self._tile_sane():
            self._fields = tuple(_tile(self.octets, self.start, flaws))
            self._names = [field.name for field in self._fields]
        count = len(self._names)
        self._firsts = dict(zip(reversed(self._names), range(count - 1, -1, -1), strict=True))
        self._firsts.pop(b"", None)
        if len(self._firsts) < count:
            flaws |= self._repeated()
        if b"from" not in self._firsts:
            flaws.add(Flaw.NO_FROM)
        self.flaws = frozenset(flaws)

    def _tile_sane(self) -> bool:
        """Tile a block that has no flaw of form; False when it has one."""
        octets = self.octets
        if len(octets) > FIELD_MAX or not octets.isascii() or b"\0" in octets:
            return False
        pieces = _NEXT_FIELD.split(octets)
        if pieces.pop() or not pieces or len(pieces) > FIELDS_MAX:  # behind the last line end there is nothing
            return False
        names, colons, _ = zip(*[piece.partition(b":") for piece in pieces], strict=True)
        if not all(names) or not all(colons) or b"".join(names).translate(None, _NAME_OCTETS):
            return False
        self._names = b":".join(names).lower().split(b":")
        self._ends = [end + at for at, end in enumerate(accumulate(map(len, pieces)), 1)]
        return True

    def _repeated(self) -> set[Flaw]:
        lasts = dict(zip(self._names, range(len(self._names)), strict=True))
        return {
            _TWICE.get(name, Flaw.DUPLICATE) for name in ONCE & lasts.keys() if lasts[name] != self._firsts[name]
        }


def unfold(value: bytes) -> bytes:
    """Return a value on one line, without blanks around it (RFC 5322 §2.2.3)."""
    value = value.strip(b" \t\r\n")
    return value.replace(b"\r\n", b"").replace(b"\n", b"") if b"\n" in value else value


def without(raw: Buffer, ranges: tuple[tuple[int, int], ...], start: int = 0, end: int | None = None) -> bytes:
    """Return `raw[start:end]` without the given octet ranges; they may touch and be in any order."""
    kept, at = [], start
    for cut_start, cut_end in sorted(ranges):
        if cut_start > at:
            kept.append(raw[at:cut_start])
        at = max(at, cut_end)
    kept.append(raw[at:end])
    return b"".join(kept)


def _extent(raw: Buffer, start: int, end: int) -> tuple[bytes, int, int, set[Flaw]]:
    """Return the fields' octets, where they end, where the body begins, and what is wrong with the line ends."""
    limit = min(end, start + HEADER_MAX + 4)
    blank = raw.find(b"\r\n\r\n", start, limit)
    if blank >= 0 and raw[start : start + 2] != b"\r\n":
        octets = raw[start : blank + 2]
        if octets.count(b"\n") == octets.count(b"\r\n") == octets.count(b"\r"):
            return octets, blank + 2, blank + 4, set()
    octets = raw[start:limit]
    flaws: set[Flaw] = set()
    found = _BLANK_LINE.search(octets)
    if found is not None:
        cut, after = found.span()
    elif limit == end:
        cut = after = len(octets)
    else:
        cut = after = octets.rfind(b"\n", 0, HEADER_MAX) + 1 or HEADER_MAX
        flaws.add(Flaw.TOO_BIG)
    octets = octets[:cut]
    pairs = octets.count(b"\r\n")
    if octets.count(b"\r") != pairs:
        flaws.add(Flaw.BARE_CR)
    if octets.count(b"\n") != pairs:
        flaws.add(Flaw.BARE_LF)
    return octets, start + cut, start + after, flaws


def _tile(octets: bytes, start: int, flaws: set[Flaw]) -> list[Field]:
    """Tile any block and note its flaws of form."""
    if b"\0" in octets:
        flaws.add(Flaw.NUL)
    if not octets.isascii():
        flaws.add(Flaw.EIGHT_BIT)
    fields: list[Field] = []
    for match in _FIELD.finditer(octets):
        at, stop = match.span()
        if at == stop:
            break
        if len(fields) == FIELDS_MAX:
            flaws.add(Flaw.TOO_MANY)
            break
        name, colon = match[1].lower(), match.end(2)
        if match.lastindex == 3 and name:
            if colon != at + len(name):
                flaws.add(Flaw.SPACE_BEFORE_COLON)
            fields.append(Field(name, start + at, start + stop, start + colon))
        else:
            flaws.add(Flaw.LEADING_SPACE if octets[at] in b" \t" else Flaw.NO_COLON)
            fields.append(Field(b"", start + at, start + stop, start + at - 1))
        if stop - at > FIELD_MAX:
            flaws.add(Flaw.FIELD_TOO_BIG)
    return fields
