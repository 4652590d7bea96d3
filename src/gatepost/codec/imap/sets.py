"""Sequence sets (RFC 9051 §9 sequence-set): bounded, normalised, linear."""

import re
from collections.abc import Iterable
from typing import Final

from gatepost.codec.imap.tokens import BadSyntax

STAR: Final = 1 << 62
"""Stands for `*`; larger than any UID."""

RANGES_MAX: Final = 20_000
NUMBER_MAX: Final = (1 << 32) - 1
_RANGE: Final = re.compile(rb"(\*|[1-9][0-9]{0,9})(?::(\*|[1-9][0-9]{0,9}))?")

Ranges = tuple[tuple[int, int], ...]


def parse_set(text: bytes) -> Ranges:
    """Read a set into ascending, disjoint ranges; `*` is STAR. Raises BadSyntax."""
    pieces = text.split(b",")
    if len(pieces) > RANGES_MAX:
        raise BadSyntax("the set has too many ranges")
    ranges = []
    for piece in pieces:
        found = _RANGE.fullmatch(piece)
        if found is None:
            raise BadSyntax("that is no sequence set")
        low, high = _number(found[1]), _number(found[2] or found[1])
        ranges.append((min(low, high), max(low, high)))
    return _merged(ranges)


def resolved(ranges: Ranges, last: int) -> Ranges:
    """Replace `*` by `last`, the largest number in use (0: nothing is); the ranges stay ascending and disjoint."""
    found = []
    for low, high in ranges:
        first = min(low, last) if low == STAR else low
        found.append((min(first, last) if high == STAR and first > last else first, last if high == STAR else high))
    return _merged((low, high) for low, high in found if low and low <= high)


def set_text(numbers: list[int] | tuple[int, ...]) -> bytes:
    """Write ascending numbers as a set."""
    parts: list[bytes] = []
    at = 0
    while at < len(numbers):
        begin = at
        while at + 1 < len(numbers) and numbers[at + 1] == numbers[at] + 1:
            at += 1
        parts.append(b"%d" % numbers[begin] if begin == at else b"%d:%d" % (numbers[begin], numbers[at]))
        at += 1
    return b",".join(parts)


def _merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _number(text: bytes) -> int:
    if text == b"*":
        return STAR
    value = int(text)
    if value > NUMBER_MAX:
        raise BadSyntax("the number is too large")
    return value
