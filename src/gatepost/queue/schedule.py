"""When a mail is tried again, and when no longer: pure (smtpd's scheduler.c).

The n-th attempt is made at created + base * k², where k is the smallest whole number that lies in the future:
0, 400, 1600, 3600, 6400, 10000 s ... for relaying. The last attempt is made when the lifetime ends.

A clock that steps must neither bounce the queue nor hold it for years:
  * a mail that was created in the future counts as created now;
  * no interval is longer than the last one of a lifetime;
  * nobody is given up before ATTEMPTS_LEAST attempts, nor while `Steadiness` says that the wall clock has jumped.
"""

from math import isqrt
from typing import Final

from gatepost.base.clock import DAY, MINUTE, Instant, later, seconds
from gatepost.base.envelope import DeliverBy

RELAY_BASE: Final = seconds(400)
QUICK_BASE: Final = seconds(10)
"""For bounces and for an LMTP server on this machine."""

ATTEMPTS_LEAST: Final = 5
STEP: Final = 5 * MINUTE
"""The wall clock has stepped when it moved this much more, or less, than the steady clock."""
DISTRUST: Final = DAY
HORIZON: Final = 2 * DAY
"""No attempt is ever planned further ahead: what is, was planned under another clock."""


def next_attempt(created: Instant, now: Instant, *, base: int, lifetime: int) -> Instant:
    """Return when to try again after a failure at `now`."""
    created = min(created, now)
    k = isqrt((now - created) // base) + 1
    longest = base * (2 * isqrt(lifetime // base) + 1)
    planned = min(created + base * k * k, now + longest)
    end = created + lifetime
    return Instant(min(planned, end) if now < end else planned)


def expired(created: Instant, now: Instant, attempts: int, *, lifetime: int, steady: bool = True) -> bool:
    """Tell whether a mail that just failed for the `attempts`-th time is given up."""
    return steady and attempts >= ATTEMPTS_LEAST and now >= created + lifetime


def warn_due(created: Instant, now: Instant, *, after: int, warned: bool, steady: bool = True) -> bool:
    """Tell whether the sender should hear now that the mail is late; once, never when `after` is 0."""
    return steady and not warned and after > 0 and now >= created + after


def overdue(by: DeliverBy | None, now: Instant) -> bool:
    """Tell whether a mail is to be returned because the time its sender gave is over (RFC 2852)."""
    return by is not None and by.returns and now >= by.at


def late(by: DeliverBy, now: Instant, *, warned: bool, steady: bool = True) -> bool:
    """Tell whether the sender should hear now that the mail was not delivered by the time it gave; once."""
    return steady and not warned and now >= by.at


def not_after(planned: Instant, by: DeliverBy | None, now: Instant) -> Instant:
    """Return when to try again, at the latest at the time that the sender gave, where that is still to come."""
    return min(planned, by.at) if by is not None and by.at > now else planned


class Steadiness:
    """Compare the wall clock with the steady one; after a jump, do not trust ages for a day."""

    __slots__ = ("_offset", "_until")

    def __init__(self, now: Instant, steady: float) -> None:
        self._offset = now - seconds(steady)
        self._until = float("-inf")

    def observe(self, now: Instant, steady: float) -> bool:
        """Tell whether ages can be trusted now."""
        offset = now - seconds(steady)
        if abs(offset - self._offset) > STEP:
            self._until = steady + DISTRUST / seconds(1)
        # Slow drift (NTP slewing) is not a step: follow it.
        self._offset = offset
        return steady >= self._until


def horizon(now: Instant) -> Instant:
    """Return the Instant after which no attempt can have been planned by a sane clock."""
    return later(now, HORIZON)
