"""Workers killed with SIGKILL: nothing is lost, at most one duplicate, and that one is told."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatepost.blobs.bodies import Blobs
from gatepost.db.sqlite import open_database
from gatepost.db.writer import Floor
from tests.queue.world import CONTENT, SCHEMAS, World
from tests.relay.world import LOOPBACK, Names, relay
from tests.support.loop import run
from tests.support.nexthop import NextHop


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    """The queue of a folder."""
    database = await open_database(folder / "mail.db", SCHEMAS, steady=time.monotonic, floor=Floor(0))
    try:
        yield World(database, Blobs(database, folder / "bodies"))
    finally:
        await database.close()


@pytest.mark.process
@pytest.mark.row("REL-05")
@pytest.mark.parametrize(("moment", "copies"), [("loading", 1), ("recording", 2)])
def test_a_worker_killed_with_a_mail_in_its_hands(tmp_path: Path, moment: str, copies: int) -> None:
    async def play() -> None:
        async with NextHop() as hop:
            async with opened(tmp_path) as before:
                await before.submit("x@far.example")
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.queue.killed", str(tmp_path), str(hop.port), moment
            )
            assert await child.wait() == -9
            assert len(hop.mails) == copies - 1
            async with opened(tmp_path) as after:
                after.clock.pass_by(300)  # the lease of the dead
                names = Names({"far.example": {"mx": [(1, "mx.far.example")]}, "mx.far.example": LOOPBACK})
                worker = after.worker(relay=relay(hop.port, names))
                async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                    group.create_task(worker.run())
                    while await after.counts() != (0, 0, 0):
                        await asyncio.sleep(0.01)
                    await worker.stop()
                assert after.log.words().count("possible_duplicate") == 1
            assert [mail.octets for mail in hop.mails] == [CONTENT] * copies

    run(play())
