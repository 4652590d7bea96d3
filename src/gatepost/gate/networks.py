"""Networks of both families, compact and immutable: what feeds give tables, and large files.

An IPv4 network costs five octets (its number and its length) and at most eight more for the borders by which
membership is asked: the addresses at which it changes, in one sorted array, found by binary search within the part
of it that belongs to the first 16 bits. Nothing is kept of a network but itself. IPv6 networks are plain numbers:
feeds have few of them.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Final

from gatepost.gate.prefix import WIDTHS, Prefix

PART_BITS: Final = 12
INDEX_FROM: Final = 4096  # borders: fewer are found as fast without the index
_HEAD: Final = Struct("<4sIIII")  # magic; IPv4 networks and borders, IPv6 networks and borders
_MAGIC: Final = b"net1"
_SIX: Final = 17  # octets of an IPv6 network, and of a border (which may be 2^128)


class Networks:
    """Networks in the order of their numbers, each once; longest first where they begin at one number."""

    __slots__ = ("_borders4", "_borders6", "_index", "_lengths", "_numbers", "_six")

    def __init__(
        self,
        numbers: "array[int]",
        lengths: bytes,
        borders4: "array[int]",
        six: Sequence[int],
        borders6: Sequence[int],
    ) -> None:
        """Take the parts that `of`, `packed` and `unpack` make: see there."""
        self._numbers = numbers
        self._lengths = lengths
        self._borders4 = borders4
        self._six = six
        self._borders6 = borders6
        self._index = _index(borders4) if len(borders4) >= INDEX_FROM else None

    @classmethod
    def of(cls, prefixes: Iterable[Prefix]) -> "Networks":
        """Make them of prefixes in any order."""
        four: list[int] = []
        six: list[int] = []
        for prefix in prefixes:
            (four if prefix.version == 4 else six).append(prefix.number << 8 | prefix.length)
        return cls.packed(four, six)

    @classmethod
    def packed(cls, four: Iterable[int], six: Iterable[int]) -> "Networks":
        """Make them of numbers, each `number << 8 | length` with no host bits, in any order, once or more often."""
        numbers, lengths, borders4 = array("I"), bytearray(), array("I")

        def counted() -> Iterator[int]:
            for each in _in_order(four, WIDTHS[4]):
                numbers.append(each >> 8)
                lengths.append(each & 0xFF)
                yield each

        for border in _borders(counted(), WIDTHS[4]):
            if border >> WIDTHS[4] == 0:  # behind the last address there is nobody to ask for
                borders4.append(border)
        sorted6 = list(_in_order(six, WIDTHS[6]))
        return cls(numbers, bytes(lengths), borders4, sorted6, list(_borders(sorted6, WIDTHS[6])))

    def __len__(self) -> int:
        return len(self._numbers) + len(self._six)

    def __iter__(self) -> Iterator[Prefix]:
        for number, length in zip(self._numbers, self._lengths, strict=True):
            yield Prefix(4, length, number)
        for each in self._six:
            yield Prefix(6, each & 0xFF, each >> 8)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Networks):
            return NotImplemented
        return (self._numbers, self._lengths, self._six) == (other._numbers, other._lengths, other._six)

    __hash__ = None  # type: ignore[assignment]  # compared by content, never a key

    def holds(self, version: int, number: int) -> bool:
        """Tell whether an address, as a number, lies in one of them."""
        if version == 4:
            index = self._index
            if index is None:
                return bisect_right(self._borders4, number) & 1 == 1
            part = number >> 16
            return bisect_right(self._borders4, number, index[part], index[part + 1]) & 1 == 1
        return bisect_right(self._borders6, number) & 1 == 1

    def cover(self, version: int, number: int) -> Prefix | None:
        """Return the longest of them that holds an address; None for none."""
        if not self.holds(version, number):
            return None
        for length in range(WIDTHS[version], -1, -1):
            shift = WIDTHS[version] - length
            prefix = Prefix(version, length, number >> shift << shift)
            if prefix in self:
                return prefix
        raise AssertionError("the borders say that one of them holds it")

    def __contains__(self, prefix: Prefix) -> bool:
        if prefix.version == 6:
            packed = prefix.number << 8 | prefix.length
            at = bisect_right(self._six, packed)
            return at > 0 and self._six[at - 1] == packed
        at = bisect_right(self._numbers, prefix.number)
        while at > 0 and self._numbers[at - 1] == prefix.number:
            at -= 1
            if self._lengths[at] == prefix.length:
                return True
        return False

    def touches(self, prefix: Prefix) -> bool:
        """Tell whether one of them has an address in common with a network."""
        borders: Sequence[int] = self._borders4 if prefix.version == 4 else self._borders6
        at = bisect_right(borders, prefix.number)
        last = prefix.number + (1 << WIDTHS[prefix.version] - prefix.length) - 1
        return at & 1 == 1 or (at < len(borders) and borders[at] <= last)

    def ranges(self, version: int) -> Iterator[tuple[int, int]]:
        """Return what they hold as (first, last) address, ascending, with gaps between."""
        borders: Sequence[int] = self._borders4 if version == 4 else self._borders6
        for at in range(0, len(borders), 2):
            last = borders[at + 1] - 1 if at + 1 < len(borders) else (1 << WIDTHS[version]) - 1
            yield borders[at], last

    def pack(self) -> bytes:
        """Write them for `unpack`, the same on every machine."""
        counts = (len(self._numbers), len(self._borders4), len(self._six), len(self._borders6))
        return b"".join(
            (
                _HEAD.pack(_MAGIC, *counts),
                _little(self._numbers).tobytes(),
                self._lengths,
                _little(self._borders4).tobytes(),
                *(each.to_bytes(_SIX) for each in self._six),
                *(each.to_bytes(_SIX) for each in self._borders6),
            )
        )

    @classmethod
    def unpack(cls, octets: bytes) -> "Networks":
        """Read what `pack` wrote; raises ValueError."""
        if len(octets) < _HEAD.size or octets[:4] != _MAGIC:
            raise ValueError("these are no packed networks")
        _, count4, edges4, count6, edges6 = _HEAD.unpack_from(octets)
        if len(octets) != _HEAD.size + 5 * count4 + 4 * edges4 + _SIX * (count6 + edges6):
            raise ValueError("packed networks of another length than their head says")
        view, at = memoryview(octets), _HEAD.size
        numbers, at = _array(view[at : at + 4 * count4]), at + 4 * count4
        lengths, at = bytes(view[at : at + count4]), at + count4
        borders4, at = _array(view[at : at + 4 * edges4]), at + 4 * edges4
        six, at = _numbers6(view[at : at + _SIX * count6]), at + _SIX * count6
        return cls(numbers, lengths, borders4, six, _numbers6(view[at:]))


def _in_order(packed: Iterable[int], width: int) -> Iterator[int]:
    """Return them in order, each once; sorted in parts, so that the interpreter is never held for long."""
    shift = width - PART_BITS + 8
    parts: dict[int, list[int] | array[int]] = {}
    for each in packed:
        part = parts.get(each >> shift)
        if part is None:
            part = parts[each >> shift] = array("Q") if width == WIDTHS[4] else []
        part.append(each)
    for name in sorted(parts):
        yield from sorted(set(parts.pop(name)))


def _borders(packed: Iterable[int], width: int) -> Iterator[int]:
    """Return where membership changes, of networks in their order: ones that touch or overlap become one."""
    end = -1  # one behind the last address so far
    for each in packed:
        first = each >> 8
        behind = first + (1 << width - (each & 0xFF))
        if first > end:
            if end >= 0:
                yield end
            yield first
            end = behind
        elif behind > end:
            end = behind
    if end >= 0:
        yield end


def _index(borders: Sequence[int]) -> "array[int]":
    """Return for each value of the first 16 bits where to begin to search, and behind them all where to end."""
    index = array("I", bytes(4 * 65_537))
    at = 0
    for part in range(65_536):
        at = index[part] = bisect_right(borders, (part << 16) - 1, at)
    index[65_536] = len(borders)
    return index


def _little(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "little":
        return numbers
    swapped = array("I", numbers)
    swapped.byteswap()
    return swapped


def _array(octets: memoryview) -> "array[int]":
    found = array("I")
    found.frombytes(octets)
    return _little(found)


def _numbers6(octets: memoryview) -> list[int]:
    return [int.from_bytes(octets[at : at + _SIX]) for at in range(0, len(octets), _SIX)]


NONE: Final = Networks.packed((), ())
