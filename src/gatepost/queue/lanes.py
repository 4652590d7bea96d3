"""One lane a destination: how many deliveries at the same time, and when to leave a dead host alone.

A lane starts with `first` deliveries, each success allows one more up to `most`; a destination that cannot be
spoken to is left with one and rests for 15 · p² s, p counting the failures in a row (smtpd's mta.c), at most
REST_MAX. What falls due while it rests is deferred with the same answer and not tried: a thousand mails for a dead
host cost one connection, keep their schedule, and are in nobody's way.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Final

from gatepost.relay.model import Fate, Result

REST_STEP: Final = 15.0  # s
REST_MAX: Final = 600.0  # s
REMEMBERED: Final = 86_400.0
"""s for which a dead destination is known, so that its first sign of life makes all its mail due."""
AHEAD: Final = 4
"""Recipients leased for each delivery that may run: the next ones are at hand when one ends."""


class Lane:
    """The deliveries to one destination."""

    __slots__ = (
        "_arrivals",
        "_most",
        "_penalty",
        "_waiting",
        "active",
        "answer",
        "leased",
        "rests_until",
        "window",
    )

    def __init__(self, first: int, most: int) -> None:
        self.window = first
        self.active = 0
        self.leased = 0
        """Recipients leased and not yet settled."""
        self.rests_until = float("-inf")
        self.answer: Result | None = None
        """What the destination answered when it was last found dead."""
        self._most = most
        self._penalty = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @property
    def room(self) -> int:
        """Return how many more recipients may be leased."""
        return max(0, self.window * AHEAD - self.leased)

    @property
    def idle(self) -> bool:
        """Tell whether it can be forgotten."""
        return not (self.leased or self.active or self._penalty)

    def rests(self, steady: float) -> bool:
        """Tell whether the destination is left alone now."""
        return steady < self.rests_until

    def wake(self) -> None:
        """End a rest: the operator said to try now."""
        self.rests_until = float("-inf")

    def learn(self, results: Sequence[Result], steady: float) -> bool:
        """Draw the consequences of one delivery; tell whether a dead destination has come back."""
        if all(result.host_down for result in results):
            self._penalty += 1
            self.window = 1
            self.rests_until = steady + min(REST_STEP * self._penalty**2, REST_MAX)
            self.answer = results[0]
            return False
        back, self._penalty = self._penalty > 0, 0
        self.rests_until = float("-inf")
        if any(result.fate is Fate.DELIVERED for result in results):
            self.window = min(self.window + 1, self._most)
        self._grant()
        return back

    @asynccontextmanager
    async def slot(self, urgency: int = 0) -> AsyncIterator[None]:
        """Wait for one's turn, then hold it; who has the lower number goes first, equal ones as they came."""
        if self.active >= self.window or self._waiting:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (urgency, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave()
                raise
        else:
            self.active += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self.active -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self.active < self.window:
            _, _, turn = heappop(self._waiting)
            if not turn.done():
                self.active += 1
                turn.set_result(None)


class Lanes:
    """All lanes by destination."""

    def __init__(self, first: int, most: int) -> None:
        self._first = first
        self._most = most
        self._lanes: dict[str, Lane] = {}

    def of(self, destination: str) -> Lane:
        """Return a destination's lane."""
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = Lane(self._first, self._most)
        return lane

    def wake_all(self) -> None:
        """End all rests."""
        for lane in self._lanes.values():
            lane.wake()

    def forget_idle(self, steady: float) -> None:
        """Drop lanes that nothing is known of, and those whose rest was over a day ago."""
        self._lanes = {
            name: lane
            for name, lane in self._lanes.items()
            if lane.leased or lane.active or (not lane.idle and steady < lane.rests_until + REMEMBERED)
        }
