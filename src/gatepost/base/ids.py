"""Ids of mails: 63 bits that sort by time, made by the caller so that a unit needs no read.

    bits 62..22  milliseconds since 2020-01-01 (until 2089)
    bits 21..14  slot: the worker that made it (CLI processes take one of the upper slots)
    bits 13..0   count within the millisecond

People see 13 letters of Crockford's base32 in lower case (no i, l, o, u), e.g. `02rk5t9v8c0g0`.
"""

from typing import Final, NewType

from gatepost.base.clock import Instant

MailId = NewType("MailId", int)

EPOCH_MS: Final = 1_577_836_800_000
SLOTS: Final = 256
LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH: Final = 13
_PAIRS: Final = tuple(high + low for high in LETTERS for low in LETTERS)
_VALUES: Final = {letter: value for value, letter in enumerate(LETTERS)} | {"i": 1, "l": 1, "o": 0}


class Minter:
    """Make ids that are unique for this slot and strictly grow, even when the clock steps back."""

    __slots__ = ("_last", "_slot")

    def __init__(self, slot: int) -> None:
        if not 0 <= slot < SLOTS:
            raise ValueError(f"slot {slot} is not in 0..{SLOTS - 1}")
        self._slot = slot << 14
        self._last = 0

    def mint(self, now: Instant) -> MailId:
        """Return the next id at `now`."""
        least = ((now // 1000 - EPOCH_MS) << 22) | self._slot
        if least <= self._last:
            least = self._last + 1
            if (least >> 14) & 0xFF != self._slot >> 14:  # 16,384 in one millisecond: take the next one
                least = (((self._last >> 22) + 1) << 22) | self._slot
        self._last = least
        return MailId(least)


def minted_at(number: int) -> Instant:
    """Return when an id was made, to the millisecond."""
    return Instant(((number >> 22) + EPOCH_MS) * 1000)


def id_text(mail_id: int) -> str:
    """Return the 13 letters of an id."""
    first = LETTERS[mail_id >> 60 & 31] + _PAIRS[mail_id >> 50 & 1023] + _PAIRS[mail_id >> 40 & 1023]
    second = _PAIRS[mail_id >> 30 & 1023] + _PAIRS[mail_id >> 20 & 1023]
    return first + second + _PAIRS[mail_id >> 10 & 1023] + _PAIRS[mail_id & 1023]


def parse_id(text: str) -> MailId:
    """Read the letters of an id; ValueError when they are not one."""
    if len(text) != ID_LENGTH:
        raise ValueError(f"{text!r} is not an id: an id has {ID_LENGTH} letters")
    value = 0
    for letter in text.lower():
        if letter not in _VALUES:
            raise ValueError(f"{text!r} is not an id: {letter!r} is not in its alphabet")
        value = value << 5 | _VALUES[letter]
    return MailId(value)
