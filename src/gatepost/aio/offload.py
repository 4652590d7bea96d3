"""Calls that release the GIL run in a few threads, never on the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 4
WAITING_MAX: Final = 1_000


class Overfull(Exception):
    """Too many calls already wait for a thread: answer 4yz."""


class ThreadPool:
    """A few threads with a bounded queue before them."""

    __slots__ = ("_executor", "_pending", "_room")

    def __init__(self, *, threads: int = THREADS, waiting: int = WAITING_MAX, name: str = "offload") -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._room = threads + waiting
        self._pending = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function` returns; raises what it raises, or Overfull at once when the queue is full.

        A cancelled caller stops waiting; the call itself runs to its end.
        """
        if self._pending >= self._room:
            raise Overfull(f"{self._pending} calls wait already")
        loop = asyncio.get_running_loop()
        self._pending += 1
        call = self._executor.submit(function, *args, **kwargs)
        call.add_done_callback(lambda _: self._left(loop))
        return await asyncio.wrap_future(call, loop=loop)

    def close(self) -> None:
        """Let running calls end and drop those that wait."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _left(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._count_down)
        except RuntimeError:  # the loop is closed: nobody counts any more
            pass

    def _count_down(self) -> None:
        self._pending -= 1


async def offload(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `function` in the loop's own pool and return what it returns; raises Overfull when the queue is full."""
    loop = asyncio.get_running_loop()
    pool = _POOLS.get(loop)
    if pool is None:
        pool = _POOLS[loop] = ThreadPool()
    return await pool.run(function, *args, **kwargs)


# Keyed by the running loop, as asyncio's default executor is.
_POOLS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadPool]] = WeakKeyDictionary()
