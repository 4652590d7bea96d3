"""Memory for the bodies under way: who finds none waits, in order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

LEAST: Final = 65_536  # octets a body counts for at least


class Room:
    """`octets` may be held at the same time; a body larger than all of it goes alone."""

    def __init__(self, octets: int) -> None:
        self._all = self._left = octets
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, octets: int) -> AsyncIterator[None]:
        """Hold room for a body of `octets`."""
        wanted = min(max(octets, LEAST), self._all)
        await self._take(wanted)
        try:
            yield
        finally:
            self._left += wanted
            self._grant()

    async def _take(self, wanted: int) -> None:
        if not self._waiting and self._left >= wanted:
            self._left -= wanted
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._left += wanted
            else:
                self._waiting.remove((wanted, granted))
            self._grant()
            raise

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left:
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self._left -= wanted
                granted.set_result(None)
