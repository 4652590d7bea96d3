"""Dates of header fields (RFC 5322 §3.3, with the zones of §4.3), read leniently, written strictly."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from gatepost.base.clock import MICROSECONDS, Instant

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_ZONES: Final = {b"EST": -300, b"EDT": -240, b"CST": -360, b"CDT": -300, b"MST": -420, b"MDT": -360}
_ZONES.update({b"PST": -480, b"PDT": -420, b"UT": 0, b"GMT": 0, b"UTC": 0, b"Z": 0})
_MONTH_NUMBERS: Final = {name.lower().encode(): number for number, name in enumerate(MONTHS, 1)}
_COMMENT: Final = re.compile(rb"\([^()]*\)")
_DATE: Final = re.compile(
    rb"\s*(?:[A-Za-z]+\s*,?\s*)?([0-9]{1,2})[\s-]+([A-Za-z]{3})[A-Za-z]*[\s-]+([0-9]{2,4})\s+"
    rb"([0-9]{1,2})\s*[:.]\s*([0-9]{1,2})(?:\s*[:.]\s*([0-9]{1,2}))?(?:\s*([+-][0-9]{4}|[A-Za-z]{1,5}))?.{0,100}",
    re.DOTALL,
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_date(value: bytes) -> Instant | None:
    """Read a Date field's value; None where it is none."""
    found = parse_date_zone(value)
    return found[0] if found else None


def parse_date_zone(value: bytes) -> tuple[Instant, int] | None:
    """Read a date and its zone in minutes east of UTC; an unknown zone counts as UTC (RFC 5322 §4.3)."""
    found = _DATE.fullmatch(_COMMENT.sub(b" ", value[:300]).strip())
    if found is None:
        return None
    month = _MONTH_NUMBERS.get(found[2].lower())
    if month is None:
        return None
    year, minutes = _year(found[3]), _zone(found[7] or b"")
    second = min(int(found[6] or b"0"), 59)  # a leap second is the second before it
    try:
        moment = datetime(year, month, int(found[1]), int(found[4]), int(found[5]), second, tzinfo=UTC)
        since = moment - timedelta(minutes=minutes) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return Instant(since // timedelta(microseconds=1)), minutes


def format_date(instant: Instant, zone: int = 0) -> str:
    """Write a date for a header field, `zone` minutes east of UTC: `Mon, 23 Nov 2026 08:00:00 +0000`."""
    at = _EPOCH + timedelta(seconds=instant // MICROSECONDS, minutes=zone)
    sign, (hours, minutes) = "-" if zone < 0 else "+", divmod(abs(zone), 60)
    day = f"{DAYS[at.weekday()]}, {at.day:02} {MONTHS[at.month - 1]} {at.year:04}"
    return f"{day} {at.hour:02}:{at.minute:02}:{at.second:02} {sign}{hours:02}{minutes:02}"


def _year(text: bytes) -> int:
    year = int(text)
    if len(text) == 2:  # RFC 5322 §4.3
        return year + (2000 if year < 50 else 1900)
    return year + 1900 if len(text) == 3 else year


def _zone(text: bytes) -> int:
    if text[:1] in (b"+", b"-"):
        minutes = int(text[1:3]) * 60 + int(text[3:5])
        return -minutes if text.startswith(b"-") else minutes
    return _ZONES.get(text.upper(), 0)
