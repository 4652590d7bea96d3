"""The header block as offsets: which octets are which field, and what is ambiguous about them (RFC 5322 §2.2).

One pass of one regular expression tiles the block with fields; nothing is decoded. A line that is no field stays in
the list with an empty name, so the fields joined are the block. A bare LF ends a line here, because every reader of
mail takes it so, and is a flaw; a bare CR does not, and is a flaw too. Whoever removes or replaces fields works
with the octet ranges.

Where readers disagree (espoofer's cases) both readings meet here: `From : a` and a name folded before its colon
count as the field and are flawed.
"""

import mmap
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
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

# RFC 5322 §3.6: at most once (From has a flaw of its own); RFC 2045 §3, RFC 2183 §2 likewise for MIME.
ONCE: Final = frozenset(
    b"date sender reply-to to cc bcc message-id in-reply-to references subject mime-version"
    b" content-transfer-encoding content-id content-description content-disposition".split()
)

# name, blanks (also folded ones) before the colon, the colon; then the line and its continuation lines.
_FIELD: Final = re.compile(
    rb"([^\x00-\x20:\x7f]*)([ \t]*(?:\r?\n[ \t]+)*)(:)?[^\n]*(?:\n[ \t][^\n]*)*\n?",
)
_BLANK_LINE: Final = re.compile(rb"(?:\A|(?<=\n))\r?\n")


class Field(NamedTuple):
    """A field's place: octets [start, end) with its line end; `name` in lower case, empty when it is no field.

    `colon` is the offset of the colon, -1 when there is none.
    """

    name: bytes
    start: int
    end: int
    colon: int


@dataclass(frozen=True, slots=True, eq=False)
class HeaderBlock:
    """The fields of one header block. Offsets count from the start of the buffer it was parsed from.

    `[start, fields_end)` holds the fields, `[fields_end, end)` the blank line (empty when it is missing), and the
    body begins at `end`. `octets` is a copy of the fields, so the buffer may be closed.
    """

    start: int
    fields_end: int
    end: int
    fields: tuple[Field, ...]
    flaws: frozenset[Flaw]
    octets: bytes
    _places: Mapping[bytes, list[Field]]

    @classmethod
    def parse(cls, raw: Buffer, start: int = 0, end: int | None = None) -> Self:
        """Parse the block that begins at `start`, within `[start, end)`; never raises."""
        if end is None:
            end = len(raw)
        octets, fields_end, body, flaws = _extent(raw, start, end)
        fields: list[Field] = []
        places: dict[bytes, list[Field]] = {}
        flaws |= _tile(octets, start, fields, places)
        flaws |= _of_octets(octets) | _of_counts(places)
        return cls(start, fields_end, body, tuple(fields), frozenset(flaws), octets, places)

    def get(self, name: bytes) -> list[bytes]:
        """Return the raw values of all fields of that name, in order: folds and all, no line end."""
        return [self.value(field) for field in self._places.get(name.lower(), ())]

    def first(self, name: bytes) -> bytes | None:
        """Return the first value of that name, unfolded and without blanks around it; None when there is none."""
        found = self._places.get(name)
        return unfold(self.value(found[0])) if found else None

    def all(self, name: bytes) -> list[Field]:
        """Return the places of all fields of that name (lower case), in order."""
        return list(self._places.get(name, ()))

    def value(self, field: Field) -> bytes:
        """Return one field's raw value, without the line end."""
        return (
            self.octets[field.colon + 1 - self.start : field.end - self.start]
            .removesuffix(b"\n")
            .removesuffix(b"\r")
        )

    def raw_field(self, field: Field) -> bytes:
        """Return all of one field's octets, name and line end included."""
        return self.octets[field.start - self.start : field.end - self.start]

    def __contains__(self, name: bytes) -> bool:
        return name in self._places

    @property
    def ambiguous(self) -> bool:
        """Tell whether two readers may see different authors."""
        return not AMBIGUOUS.isdisjoint(self.flaws)


def unfold(value: bytes) -> bytes:
    """Return a value on one line, without blanks around it (RFC 5322 §2.2.3)."""
    if b"\n" in value:
        value = value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value.strip(b" \t\r")


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
    """Return the fields' octets, where they end, where the body begins, and what is wrong with the extent."""
    limit = min(end, start + HEADER_MAX + 4)
    if raw[start : start + 2] == b"\r\n" and end >= start + 2:
        return b"", start, start + 2, set()
    blank = raw.find(b"\r\n\r\n", start, limit)
    octets = raw[start : blank + 2] if blank >= 0 else raw[start:limit]
    if octets.count(b"\n") != octets.count(b"\r\n") or blank < 0:
        found = _BLANK_LINE.search(octets)
        if found is not None:
            return octets[: found.start()], start + found.start(), start + found.end(), set()
    if blank >= 0:
        return octets, blank + 2, blank + 4, set()
    if limit == end:
        return octets, end, end, set()
    cut = octets.rfind(b"\n", 0, HEADER_MAX) + 1 or HEADER_MAX
    return octets[:cut], start + cut, start + cut, {Flaw.TOO_BIG}


def _tile(octets: bytes, start: int, fields: list[Field], places: dict[bytes, list[Field]]) -> set[Flaw]:
    flaws: set[Flaw] = set()
    for match in _FIELD.finditer(octets):
        at, stop = match.span()
        if at == stop:
            break
        if len(fields) == FIELDS_MAX:
            flaws.add(Flaw.TOO_MANY)
            break
        name = match[1].lower()
        colon = match.end(2)
        if match.lastindex == 3 and name:
            if colon != at + len(name):
                flaws.add(Flaw.SPACE_BEFORE_COLON)
            field = Field(name, start + at, start + stop, start + colon)
            if name in places:
                places[name].append(field)
            else:
                places[name] = [field]
        else:
            flaws.add(Flaw.LEADING_SPACE if octets[at] in b" \t" else Flaw.NO_COLON)
            field = Field(b"", start + at, start + stop, -1)
        if stop - at > FIELD_MAX:
            flaws.add(Flaw.FIELD_TOO_BIG)
        fields.append(field)
    return flaws


def _of_octets(octets: bytes) -> set[Flaw]:
    flaws = set()
    pairs = octets.count(b"\r\n")
    if octets.count(b"\r") != pairs:
        flaws.add(Flaw.BARE_CR)
    if octets.count(b"\n") != pairs:
        flaws.add(Flaw.BARE_LF)
    if b"\0" in octets:
        flaws.add(Flaw.NUL)
    if not octets.isascii():
        flaws.add(Flaw.EIGHT_BIT)
    return flaws


def _of_counts(places: Mapping[bytes, list[Field]]) -> set[Flaw]:
    flaws = set()
    authors = places.get(b"from", ())
    if len(authors) != 1:
        flaws.add(Flaw.MULTIPLE_FROM if authors else Flaw.NO_FROM)
    if len(places.get(b"content-type", ())) > 1:
        flaws.add(Flaw.MULTIPLE_CONTENT_TYPE)
    if any(len(places[name]) > 1 for name in ONCE & places.keys()):
        flaws.add(Flaw.DUPLICATE)
    return flaws
