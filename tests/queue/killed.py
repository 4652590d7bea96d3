"""A worker that is killed at a chosen moment: `python -m tests.queue.killed FOLDER PORT MOMENT`.

Moments: `loading` (leased, connected, nothing sent), `recording` (the next hop has said 250, nothing is recorded).
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from gatepost.blobs.bodies import Blobs
from gatepost.db.sqlite import open_database
from gatepost.db.writer import Floor
from tests.queue.world import SCHEMAS, World
from tests.relay.world import LOOPBACK, Names, relay


async def main(folder: Path, port: int, moment: str) -> None:
    """Work until killed."""
    database = await open_database(folder / "mail.db", SCHEMAS, steady=time.monotonic, floor=Floor(0))
    world = World(database, Blobs(database, folder / "bodies"))
    settler = world.settler()

    async def die(*_: object, **__: object) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    if moment == "loading":
        world.blobs.get = die  # type: ignore[method-assign]  # the moment of death
    else:
        settler.unit = die  # type: ignore[method-assign,assignment]  # as above
    names = Names({"far.example": {"mx": [(1, "mx.far.example")]}, "mx.far.example": LOOPBACK})
    await world.worker(relay=relay(port, names), settler=settler).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
