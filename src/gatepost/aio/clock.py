"""The real clock of a process."""

import time

from gatepost.base.clock import Instant


class SystemClock:
    """The machine's two clocks, behind `base.clock.Clock`."""

    __slots__ = ()

    def now(self) -> Instant:
        """Return the wall clock."""
        return Instant(time.time_ns() // 1000)

    def steady(self) -> float:
        """Return the monotonic clock in seconds: the one all deadlines in aio are read on."""
        return time.monotonic()
