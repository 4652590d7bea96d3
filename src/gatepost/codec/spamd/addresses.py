"""Lists of IPv4 addresses as spamd-setup(8) reads them, and what it makes of black and white ones together.

A line is, after blanks (no tabs) and unless it is a comment, the first of these that it matches:

    10.2/16                   a network; missing octets are zero, host bits are *not*: 10.0.0.5/24 begins at .5
    192.0.2.0 - 192.0.2.5     a range with its last address; a dash, blanks or both between
    192.0.2.7 anything        one address

Everything else is passed over without a word, as spamd-setup does it, but counted. Three things differ, each with
a remark: a range needs two full addresses (spamd-setup reads `1.2.3.4 5 hits` as 1.2.3.4 - 5.0.0.0), it must not be
reversed, and one that ends at 255.255.255.255 does not disappear.

Ranges here are pairs (first, behind) with behind <= 2^32. The algebra is a sweep over their borders; it sorts in
parts, so that a thread that does it never holds the interpreter for long.
"""

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

WIDTH: Final = 32
END: Final = 1 << WIDTH
LINE_MAX: Final = 1024  # octets of a line that are looked at
REMARKS_MAX: Final = 20
_PART_SHIFT: Final = 20 + 2  # borders are sorted in parts of 2^20 addresses; two bits say what a border is
_LINE: Final = re.compile(rb" *([0-9.]+)(?:/([0-9]{1,10})|([ -]+)([0-9.]+))?")

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Remark:
    """Something odd in a line: the line was read as it is said here."""

    line: int
    text: str


@dataclass(slots=True)
class AddressList:
    """What a list has. `borders` are first, behind, first, behind ... in the order of the lines."""

    borders: "array[int]" = field(default_factory=lambda: array("Q"))
    lines: int = 0
    ignored: int = 0
    """Lines that are neither empty nor a comment and no address."""
    remarks: list[Remark] = field(default_factory=list)
    """The first REMARKS_MAX."""

    def __len__(self) -> int:
        return len(self.borders) // 2

    @property
    def ranges(self) -> Iterator[Range]:
        """Return its ranges."""
        every = iter(self.borders)
        return zip(every, every, strict=True)


def parse(lines: Iterable[bytes]) -> AddressList:
    """Read a list; a line need not have its end."""
    found = AddressList()
    for number, line in enumerate(lines, 1):
        found.lines = number
        _take(line, number, found)
    return found


def parse_text(octets: bytes) -> AddressList:
    """Read a list from one piece."""
    return parse(octets.split(b"\n"))


def address(octets: bytes) -> int | None:
    """Read one to four decimal octets, missing ones being zero; None where it is no address."""
    number, shift = 0, 24
    for octet in octets.split(b"."):
        if shift < 0 or not 0 < len(octet) <= 3 or (value := int(octet)) > 255:
            return None
        number |= value << shift
        shift -= 8
    return number


def text(number: int, length: int = WIDTH) -> str:
    """Write a network: `192.0.2.0/24`, or `192.0.2.7` where it is one address."""
    quad = f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return quad if length == WIDTH else f"{quad}/{length}"


def _take(line: bytes, number: int, found: AddressList) -> None:
    match = _LINE.match(line[:LINE_MAX])
    if match is None:
        bare = line.strip(b" \t\r\n")
        found.ignored += bool(bare) and not line.lstrip(b" ").startswith(b"#")
        return
    first, bits, separator, second = match.groups()
    start = address(first)
    if start is None or (bits is not None and int(bits) > WIDTH):
        found.ignored += 1
        return
    behind = start + 1
    if bits is not None:
        behind = min(start + (1 << WIDTH - int(bits)), END)
    elif second is not None:
        behind = _range_end(first, start, separator, second, number, found)
        if behind <= start:
            found.ignored += 1
            return
    found.borders.append(start)
    found.borders.append(behind)


def _range_end(first: bytes, start: int, separator: bytes, second: bytes, line: int, found: AddressList) -> int:
    """Return what is behind a range's last address; `start` for a range that cannot be."""

    def remark(words: str) -> None:
        if len(found.remarks) < REMARKS_MAX:
            found.remarks.append(Remark(line, words))

    last = address(second)
    full = first.count(b".") == 3 and last is not None and second.count(b".") == 3
    shown = b"".join((first, separator, second))[:60].decode("ascii")
    if last is not None and full:
        if last < start:
            remark(f"{shown}: this range ends before it begins, it was left out")
            return start
        return last + 1
    if first.count(b".") == 3:
        remark(f"{shown}: no range, for one needs two full addresses; only {first.decode('ascii')} was taken")
        return start + 1
    remark(f"{shown}: no range, for one needs two full addresses; it was left out")
    return start


# --- algebra --------------------------------------------------------------------------------------------------


def subtract(black: Iterable[Range], white: Iterable[Range] = ()) -> Iterator[Range]:
    """Return what is in a black range and in no white one: ascending, with gaps between."""
    blacks = whites = 0
    begun = -1
    at = -1
    for border in _in_order(black, white):
        here = border >> 2
        if here != at:
            if at >= 0:
                is_black = blacks > 0 and whites == 0
                if is_black and begun < 0:
                    begun = at
                elif not is_black and begun >= 0:
                    yield begun, at
                    begun = -1
            at = here
        step = 1 if border & 1 else -1
        if border & 2:
            whites += step
        else:
            blacks += step
    if begun >= 0:
        yield begun, at


def blocks(ranges: Iterable[Range]) -> Iterator[int]:
    """Return ranges as the fewest networks, each `number << 8 | length`: the form of `Networks.packed`."""
    for start, behind in ranges:
        while start < behind:
            size = start & -start or END
            left = behind - start
            if size > left:
                size = 1 << left.bit_length() - 1
            yield start << 8 | (WIDTH + 1 - size.bit_length())
            start += size


def collapse(black: Iterable[Range], white: Iterable[Range] = ()) -> "array[int]":
    """Return black less white as the fewest networks, ascending, each `number << 8 | length`."""
    return array("Q", blocks(subtract(black, white)))


def _in_order(black: Iterable[Range], white: Iterable[Range]) -> Iterator[int]:
    """Return all borders in order, each `address << 2 | white << 1 | first`."""
    parts: dict[int, array[int]] = {}
    for bit, ranges in ((0, black), (2, white)):
        for start, behind in ranges:
            for border in (start << 2 | bit | 1, behind << 2 | bit):
                part = parts.get(border >> _PART_SHIFT)
                if part is None:
                    part = parts[border >> _PART_SHIFT] = array("Q")
                part.append(border)
    for name in sorted(parts):
        yield from sorted(parts.pop(name))
