"""Reach a host by any of its addresses: "happy eyeballs" (RFC 8305), and a memory of what did not answer.

    addresses    IPv6 and IPv4 in turn, IPv6 first; those that lately did not answer last
    attempts     the next begins DELAY after the one before, or at once when that failed; all stay open
    the winner   the first that connects; the others are closed, also those that connect in the same moment

A network whose IPv6 leads nowhere so costs a mail a quarter of a second, and the next mail nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import zip_longest
from typing import Final
from zlib import crc32

from gatepost.aio.drive import Wire
from gatepost.base.clock import Clock

DELAY: Final = 0.25  # s, RFC 8305 §5
REST: Final = 60.0  # s that an address is tried last after it did not answer, for each time in a row
REST_MOST: Final = 600.0  # s
KNOWN_MAX: Final = 10_000  # addresses

Connect = Callable[[str], Awaitable[Wire]]
"""Connects to one address; raises OSError or TimeoutError."""


@dataclass(frozen=True, slots=True)
class Reached:
    """An open connection, and the addresses that failed or were too slow before it came about."""

    ip: str
    wire: Wire
    failed: tuple[str, ...]


class NotReached(Exception):
    """No address answered; `errors` says of each why."""

    def __init__(self, errors: Sequence[tuple[str, BaseException]]) -> None:
        super().__init__(str(errors[-1][1]) if errors else "no address")
        self.errors = tuple(errors)


async def reach(addresses: Sequence[str], connect: Connect, delay: float = DELAY) -> Reached:
    """Connect to the first of `addresses` that answers; raises NotReached."""
    waiting = list(addresses)
    running: dict[asyncio.Task[Wire], str] = {}
    errors: list[tuple[str, BaseException]] = []
    try:
        while waiting or running:
            if waiting:
                ip = waiting.pop(0)
                running[asyncio.ensure_future(_task(connect, ip))] = ip
            done, _ = await asyncio.wait(
                running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            winner = next((task for task in running if task in done and task.exception() is None), None)
            if winner is not None:
                ip = running.pop(winner)
                return Reached(ip, winner.result(), (*(each for each, _ in errors), *running.values()))
            for task in done:
                error = task.exception()
                assert error is not None
                if not isinstance(error, OSError | TimeoutError):
                    raise error
                errors.append((running.pop(task), error))
        raise NotReached(errors)
    finally:
        await _give_up(running)


async def _task(connect: Connect, ip: str) -> Wire:
    return await connect(ip)


async def _give_up(running: Iterable["asyncio.Task[Wire]"]) -> None:
    """End the attempts that lost, and close what connected all the same."""
    tasks = list(running)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Wire):
            ended.abort()


class Silent:
    """Remembers which addresses did not answer; only for the order in which they are tried."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """How often in a row, and until when (steady seconds) it is tried last; the longest unheard of first."""

    def failed(self, ip: str) -> None:
        """Learn that an address did not answer."""
        times, until = self._known.pop(ip, (0, 0.0))
        now = self._clock.steady()
        if until and until + REST_MOST < now:
            times = 0  # that was another time
        times += 1
        self._known[ip] = (times, now + min(REST * times, REST_MOST))
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def answered(self, ip: str) -> None:
        """Learn that it does answer."""
        self._known.pop(ip, None)

    def rests(self, ip: str) -> bool:
        """Tell whether an address is tried last."""
        known = self._known.get(ip)
        return known is not None and known[1] > self._clock.steady()

    def last(self, addresses: Sequence[str]) -> tuple[str, ...]:
        """Return the addresses with those that rest at the end; the order is kept otherwise."""
        if not self._known:
            return tuple(addresses)
        return tuple(sorted(addresses, key=self.rests))


def in_turn(six: Sequence[str], four: Sequence[str]) -> list[str]:
    """Return addresses of both families in turn, IPv6 first (RFC 8305 §4)."""
    return [ip for pair in zip_longest(six, four) for ip in pair if ip is not None]


def sendable(addresses: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the addresses of those families that there is a source for; all of them without sources."""
    families = {ip_address(each).version for each in sources}
    return [ip for ip in addresses if not families or ip_address(ip).version in families]


def source_for(ip: str, sources: Sequence[str], destination: str) -> str | None:
    """Return the address to send from: of the family of `ip`, of several always the same for a destination."""
    if not sources:
        return None
    version = ip_address(ip).version
    fitting = [each for each in sources if ip_address(each).version == version]
    return fitting[crc32(destination.encode()) % len(fitting)] if fitting else None
