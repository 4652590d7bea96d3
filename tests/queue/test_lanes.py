"""How many deliveries a destination gets, and when it is left alone."""

import asyncio

import pytest

from gatepost.base.reply import Reply
from gatepost.queue.lanes import Lane, Lanes
from gatepost.relay.model import Fate, Result
from tests.support.loop import run

DELIVERED = (Result(Fate.DELIVERED, Reply(250)),)
DOWN = (Result(Fate.DEFERRED, Reply(451), host_down=True),)
BUSY = (Result(Fate.DEFERRED, Reply(450)),)


@pytest.mark.row("OUT-11")
def test_a_lane_grows_from_two_to_ten() -> None:
    lane = Lane(2, 10)
    seen = []
    for _ in range(12):
        seen.append(lane.window)
        lane.learn(DELIVERED, 0.0)
    assert seen == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]
    lane.learn(BUSY, 0.0)
    assert lane.window == 10


def test_a_dead_destination_rests_longer_each_time_and_forgets_it_at_once() -> None:
    lane = Lane(2, 10)
    now, rests = 0.0, []
    for _ in range(8):
        lane.learn(DOWN, now)
        rests.append(lane.rests_until - now)
        assert lane.rests(now)
        now = lane.rests_until
        assert not lane.rests(now)
    assert rests == [15, 60, 135, 240, 375, 540, 600, 600]
    assert lane.window == 1
    lane.learn(DELIVERED, now)
    assert (lane.window, lane.rests(now)) == (2, False)


def test_no_more_run_than_the_window_and_a_cancelled_turn_is_passed_on() -> None:
    async def play() -> None:
        lane, running, most = Lane(2, 2), 0, 0
        go = asyncio.Event()

        async def work() -> None:
            nonlocal running, most
            async with lane.slot():
                running += 1
                most = max(most, running)
                try:
                    await go.wait()
                finally:
                    running -= 1

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work()) for _ in range(6)]
            await asyncio.sleep(0)
            tasks[2].cancel()
            tasks[0].cancel()
            await asyncio.sleep(0)
            go.set()
        assert (most, running, lane.active) == (2, 0, 0)

    run(play())


def test_room_is_a_few_mails_for_each_delivery() -> None:
    lane = Lane(2, 10)
    lane.leased = 3
    assert lane.room == 5
    lane.leased = 8
    assert lane.room == 0


def test_idle_lanes_are_forgotten_and_resting_ones_not() -> None:
    lanes = Lanes(2, 10)
    lanes.of("a").learn(DOWN, 0.0)
    lanes.of("b").learn(DELIVERED, 0.0)
    lanes.forget_idle(1.0)
    assert lanes.of("a").rests(1.0)
    assert lanes.of("b").window == 2
    lanes.forget_idle(90_000.0)
    assert lanes.of("a").window == 2


def test_the_most_urgent_gets_the_next_turn() -> None:
    lane = Lane(1, 1)
    order: list[int] = []

    async def deliver(urgency: int) -> None:
        async with lane.slot(urgency):
            order.append(urgency)
            await asyncio.sleep(0)

    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            for urgency in (0, 9, 0, -4, -9, 9):
                group.create_task(deliver(urgency))

    run(play())
    assert order == [0, -9, -4, 0, 9, 9]
