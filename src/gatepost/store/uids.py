"""Sets of UIDs as ascending, disjoint, inclusive ranges: what SQL is asked with."""

from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]
"""((low, high), ...): ascending, not touching each other, both ends included."""


def runs(uids: Iterable[int]) -> Ranges:
    """Return the ranges that hold exactly `uids`, in any order, with or without repeats."""
    found: list[tuple[int, int]] = []
    low = high = 0
    for uid in sorted(uids):
        if uid <= high + 1 and found:
            high = max(high, uid)
            found[-1] = (low, high)
        else:
            low = high = uid
            found.append((low, high))
    return tuple(found)


def merge(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the same UIDs as normal ranges; a range written backwards is turned (RFC 9051 §9, seq-range)."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((min(pair), max(pair)) for pair in ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def bridge(uids: Iterable[int], existing: list[int]) -> Ranges:
    """Return fewest ranges that hold `uids` and no other of `existing` (ascending): gaps of gone UIDs are bridged.

    A mailbox with holes would otherwise need one range for each hole.
    """
    wanted = set(uids)
    found: list[tuple[int, int]] = []
    joined = False
    for uid in existing:
        if uid not in wanted:
            joined = False
        elif joined:
            found[-1] = (found[-1][0], uid)
        else:
            found.append((uid, uid))
            joined = True
    return tuple(found)


def clip(ranges: Ranges, high: int) -> Ranges:
    """Return `ranges` without what lies above `high`."""
    return tuple((first, min(last, high)) for first, last in ranges if first <= high)


def above(ranges: Ranges, low: int) -> Ranges:
    """Return what of `ranges` lies above `low`."""
    return tuple((max(first, low + 1), last) for first, last in ranges if last > low)
