"""A flood of random triplets: the greylist stays within its rows, memory is bounded, and who came back stays."""

import asyncio
import os
import random
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.codec.spamd.dialogue import Offer
from gatepost.gate import sql
from gatepost.gate.backlog import BACKLOG_MAX, ROWS_EVERY
from gatepost.gate.verbs import add_white
from tests.gate.world import QUIET, World, world
from tests.support.loop import run

MEGABYTE = 1_000_000
FRIENDS = tuple(f"192.0.2.{at}" for at in range(1, 21))
ANN = Offer(b"mail.example.net", b"<joe@example.net>", b"<ann@example.org>")


def octets() -> int:
    """Return the resident octets of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def rows(here: World) -> int:
    count = (await here.database.read(sql.COUNT, {}))[0][0]
    assert isinstance(count, int)
    return count


async def flood(here: World, count: int) -> int:
    """Let `count` random triplets come as fast as they are written; return the most rows there ever were."""
    dice, most = random.Random(7), 0
    for at in range(count):
        ip = socket.inet_ntoa(dice.getrandbits(32).to_bytes(4, "big"))
        offer = Offer(b"%x" % dice.getrandbits(32), b"<%x@example.net>" % at, b"<%x@here.example>" % at)
        here.gate._remember(ip, "192.0.2.25", offer, here.now)
        if at % ROWS_EVERY == 0:
            here.clock.move(1)
            while here.gate.counts().waiting >= BACKLOG_MAX - ROWS_EVERY:
                await asyncio.sleep(0.005)  # the flood is as fast as the database, no faster
            most = max(most, await rows(here))
    async with asyncio.timeout(60):
        while here.gate.counts().waiting:
            await asyncio.sleep(0.005)
    return max(most, await rows(here))


async def check(count: int, limit: int) -> None:
    """See that a flood of `count` changes nothing for those that came back, and costs no more than `limit` rows."""
    async with world(replace(QUIET, rows=limit)) as here:
        await add_white(here.database, ["198.51.100.1"], here.now, QUIET)
        for length in (0, 26 * 60):
            here.clock.move(length)
            for ip in FRIENDS:
                here.gate._remember(ip, "192.0.2.25", ANN, here.now)
            await here.learn()
        before = octets()
        writing = asyncio.get_running_loop().create_task(here.gate._backlog.run())
        try:
            most = await flood(here, count)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await here.gate._backlog.evict()
        assert most <= limit + BACKLOG_MAX + ROWS_EVERY
        assert await rows(here) <= limit
        assert here.gate.counts().forgotten == 0
        assert octets() - before < 100 * MEGABYTE
        assert await here.scan() == len(FRIENDS)
        assert {here.verdict(ip) for ip in (*FRIENDS, "198.51.100.1")} == {"pass"}


@pytest.mark.row("SYNC-07")
def test_a_flood_of_triplets_pushes_out_no_one_who_came_back() -> None:
    run(check(30_000, 2_000))


@pytest.mark.deep
@pytest.mark.row("SYNC-07")
def test_a_million_triplets_push_out_no_one_who_came_back() -> None:
    run(check(1_000_000, 100_000))
