"""The question for the time and its answer (RFC 4330 §5): 48 octets each way."""

import struct
from dataclasses import dataclass
from typing import Final

SIZE: Final = 48
_SINCE_1900: Final = 2_208_988_800  # seconds to 1970 (RFC 5905 §6)
_ERA: Final = 1 << 32
_CLIENT: Final = 4 << 3 | 3  # version 4, mode 3
_SERVER: Final = 4
_FIELDS: Final = struct.Struct("!BBBb11I")


class BadAnswer(ValueError):
    """No answer that tells the time; the text says why."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a server says: `offset` is how far our clock is behind, in seconds; `delay` how long the way took."""

    offset: float
    delay: float


def question(now: float) -> bytes:
    """Return the packet to send at `now`, in seconds since 1970."""
    return _FIELDS.pack(_CLIENT, 0, 0, 0, *(0,) * 9, *_stamp(now))


def answer(octets: bytes, asked: float, now: float) -> Told:
    """Read what came at `now` to a question of `asked`; raises BadAnswer."""
    if len(octets) < SIZE:
        raise BadAnswer(f"{len(octets)} octets")
    flags, stratum, _, _, *words = _FIELDS.unpack_from(octets)
    if flags & 7 != _SERVER or tuple(words[5:7]) != _stamp(asked):
        raise BadAnswer("it answers another question")
    if flags >> 6 == 3 or not 1 <= stratum <= 15:
        raise BadAnswer("the server does not know the time itself")
    received, sent = _seconds(words[7], words[8], now), _seconds(words[9], words[10], now)
    return Told(((received - asked) + (sent - now)) / 2, (now - asked) - (sent - received))


def _stamp(moment: float) -> tuple[int, int]:
    whole = int(moment)
    return (whole + _SINCE_1900) % _ERA, int((moment - whole) * _ERA)


def _seconds(whole: int, fraction: int, near: float) -> float:
    """Return a stamp as seconds since 1970, in the era that is nearest to a time that is known roughly."""
    moment = whole - _SINCE_1900 + fraction / _ERA
    return moment + round((near - moment) / _ERA) * _ERA
