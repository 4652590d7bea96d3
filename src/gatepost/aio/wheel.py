"""A coarse timer wheel, one a loop: ten thousand deadlines cost one timer of the loop.

A deadline fires within one TICK after it has passed, never before. Moving one to a later time, which every read
of a session does, costs nothing: it stays in its slot and is put on when the slot comes round.
"""

import asyncio
import heapq
import math
import time
from typing import Final, Protocol
from weakref import WeakKeyDictionary

TICK: Final = 0.02
NEVER: Final = math.inf


class Sleeper(Protocol):
    """What can wait on a wheel. The wheel owns `tick`: its slot, 0 for none."""

    tick: int

    def next_due(self) -> float:
        """Return the steady time at which to be woken, NEVER for not at all."""
        ...

    def woken(self, steady: float) -> None:
        """Act on a deadline that has passed."""
        ...


class Wheel:
    """The deadlines of one loop."""

    __slots__ = ("_slots", "_ticks", "_timer", "_timer_tick", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._slots: dict[int, set[Sleeper]] = {}
        self._ticks: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> "Wheel":
        """Return the wheel of `loop`, made at first use."""
        wheel = _WHEELS.get(loop)
        if wheel is None:
            wheel = _WHEELS[loop] = Wheel(loop)
        return wheel

    def put(self, sleeper: Sleeper, due: float) -> None:
        """See that `sleeper` is looked at no later than one TICK after `due`."""
        if due == NEVER:
            return
        tick = math.ceil(due / TICK)
        if sleeper.tick:
            if sleeper.tick <= tick:
                return
            self.drop(sleeper)
        slot = self._slots.get(tick)
        if slot is None:
            slot = self._slots[tick] = set()
            heapq.heappush(self._ticks, tick)
            if self._timer is None or tick < self._timer_tick:
                self._arm(tick)
        slot.add(sleeper)
        sleeper.tick = tick

    def drop(self, sleeper: Sleeper) -> None:
        """Forget `sleeper`."""
        slot = self._slots.get(sleeper.tick)
        if slot is not None:
            slot.discard(sleeper)
        sleeper.tick = 0

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = self.loop.call_later(max(0.0, tick * TICK - time.monotonic()), self._turn)

    def _turn(self) -> None:
        self._timer = None
        steady = time.monotonic()
        try:
            while self._ticks and self._ticks[0] * TICK <= steady:
                tick = heapq.heappop(self._ticks)
                for sleeper in self._slots.pop(tick):
                    if sleeper.tick == tick:  # not dropped by one woken before it
                        self._wake(sleeper, steady)
        finally:
            if self._ticks:
                self._arm(self._ticks[0])

    def _wake(self, sleeper: Sleeper, steady: float) -> None:
        sleeper.tick = 0
        due = sleeper.next_due()
        if due > steady:
            self.put(sleeper, due)
            return
        try:
            sleeper.woken(steady)
        except Exception as error:  # one session's bug must not stop the clock of the others
            self.loop.call_exception_handler({"message": "a deadline's action failed", "exception": error})


# Keyed by the running loop, as asyncio's own state is: it says nothing about the program.
_WHEELS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Wheel]] = WeakKeyDictionary()
