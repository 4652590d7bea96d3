"""Amounts as operators write them: `25m`, `36d`, `50M`; settings are typed by what they count."""

import re
from typing import Final, NewType

Seconds = NewType("Seconds", float)
"""A length of time in a setting; written `90`, `"90s"`, `"25m"`, `"4h"`, `"36d"` or `"20ms"`."""

Octets = NewType("Octets", int)
"""A size in a setting; written `1000`, `"35K"`, `"50M"` or `"2G"` (powers of 1024, as smtpd.conf has them)."""

_LENGTHS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LENGTH: Final = re.compile(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"([0-9]{1,15})([KMGT]?)B?")


def parse_seconds(text: str) -> Seconds:
    """Read `25m`; ValueError says what is allowed."""
    found = _LENGTH.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a length of time: write 20ms, 90s, 25m, 4h or 36d")
    return Seconds(float(found[1]) * _LENGTHS[found[2]])


def parse_octets(text: str) -> Octets:
    """Read `50M`; ValueError says what is allowed."""
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} is not a size: write 1000, 35K, 50M or 2G")
    return Octets(int(found[1]) * _SIZES[found[2]])


def seconds_text(amount: float) -> str:
    """Write a length of time the way a person would: `4h`, `1m 30s`, `250ms`."""
    if amount < 1:
        return f"{amount * 1000:.0f}ms"
    left, parts = round(amount), []
    for unit in ("d", "h", "m", "s"):
        whole, left = divmod(left, int(_LENGTHS[unit]))
        if whole:
            parts.append(f"{whole}{unit}")
    return " ".join(parts[:2]) or "0s"


def octets_text(amount: int) -> str:
    """Write a size with at most one decimal: `5.1K`, `50M`."""
    for unit in ("T", "G", "M", "K"):
        if amount >= _SIZES[unit]:
            return f"{amount / _SIZES[unit]:.1f}".removesuffix(".0") + unit
    return str(amount)
