"""Threads behind a bounded queue."""

import asyncio
import threading

import pytest

from gatepost.aio.offload import Overfull, ThreadPool, offload
from tests.support.loop import run


def test_a_call_runs_elsewhere_and_its_outcome_comes_back() -> None:
    async def story() -> None:
        assert await offload(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await offload(divmod, 1, 0)

    run(story())


def test_a_full_queue_refuses_at_once_and_recovers() -> None:
    async def story() -> None:
        pool = ThreadPool(threads=1, waiting=1)
        gate = threading.Event()
        calls = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overfull):
            await pool.run(gate.wait)
        gate.set()
        assert await asyncio.gather(*calls) == [True, True]
        await asyncio.sleep(0.05)
        assert await pool.run(gate.wait)
        pool.close()

    run(story())


def test_a_cancelled_caller_leaves_its_place_only_when_the_call_has_ended() -> None:
    async def story() -> None:
        pool = ThreadPool(threads=1, waiting=0)
        gate = threading.Event()
        call = asyncio.ensure_future(pool.run(gate.wait))
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.sleep(0)
        with pytest.raises(Overfull):
            await pool.run(gate.wait)
        gate.set()
        await asyncio.sleep(0.1)
        assert await pool.run(gate.wait)
        pool.close()

    run(story())
