"""Time as a value: every rule that depends on time is handed an Instant."""

from typing import Final, NewType, Protocol

Instant = NewType("Instant", int)
"""Microseconds since 1970-01-01T00:00:00Z; what the database stores."""

MICROSECONDS: Final = 1_000_000
MINUTE: Final = 60 * MICROSECONDS
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


class Clock(Protocol):
    """The two clocks of a process; only aio and app own a real one."""

    def now(self) -> Instant:
        """Return the wall clock."""
        ...

    def steady(self) -> float:
        """Return seconds of a clock that never steps: for deadlines, never stored."""
        ...


def seconds(count: float) -> int:
    """Return `count` seconds as the microseconds that are added to an Instant."""
    return round(count * MICROSECONDS)


def later(instant: Instant, microseconds: int) -> Instant:
    """Return the Instant that lies `microseconds` after `instant`."""
    return Instant(instant + microseconds)
