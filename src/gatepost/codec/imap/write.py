"""Answers: every string that is not ours goes through `astring` or `nstring`, and so can inject nothing."""

import re
from typing import Final

from gatepost.base.clock import MICROSECONDS, Instant
from gatepost.codec.mail.date import MONTHS, format_date

_PLAIN: Final = re.compile(rb"[ !#-\[\]-~]*")
_ATOM: Final = re.compile(rb"[!#$&'+,\-./0-9:;<=>?@A-Z\[\]^_`a-z|}~]+")


def quoted(value: bytes) -> bytes:
    """Write a string: quoted where it is plain, else a literal."""
    if _PLAIN.fullmatch(value):
        return b'"' + value + b'"'
    if value.isascii() and not re.search(rb"[\0\r\n]", value):
        return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return literal(value)


def literal(value: bytes) -> bytes:
    """Write a literal; NUL cannot stand in one and becomes 0x80, as Dovecot has it."""
    return b"{%d}\r\n%b" % (len(value), value.replace(b"\0", b"\x80"))


def literal_pieces(value: bytes) -> tuple[bytes, bytes]:
    """Write a blank and a literal, uncopied where there is no NUL in it."""
    return b" {%d}\r\n" % len(value), value.replace(b"\0", b"\x80")


def astring(value: bytes) -> bytes:
    """Write an atom where it is one, else a string."""
    return value if _ATOM.fullmatch(value) and value.upper() != b"NIL" else quoted(value)


def internal_date(instant: Instant) -> bytes:
    """Write INTERNALDATE's value, UTC, quotes included."""
    text = format_date(instant)  # Mon, 23 Nov 2026 08:00:00 +0000
    return f'"{text[5:7]}-{text[8:11]}-{text[12:16]} {text[17:]}"'.encode().replace(b'"0', b'" ')


_DATE_TIME: Final = re.compile(
    rb'" ?([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)
_MONTHS: Final = {name.lower().encode(): number for number, name in enumerate(MONTHS, 1)}


def date_time_pattern() -> "re.Pattern[bytes]":
    """Return the grammar of APPEND's date-time."""
    return _DATE_TIME


def parse_date_time(found: "re.Match[bytes]") -> Instant | None:
    """Read APPEND's date-time; None where it is no date."""
    from datetime import UTC, datetime

    month = _MONTHS.get(found[2].lower())
    try:
        moment = datetime(
            int(found[3]),
            month or 0,
            int(found[1]),
            int(found[4]),
            int(found[5]),
            min(59, int(found[6])),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    offset = (int(found[8]) * 60 + int(found[9])) * 60 * (-1 if found[7] == b"-" else 1)
    return Instant((int(moment.timestamp()) - offset) * MICROSECONDS)
