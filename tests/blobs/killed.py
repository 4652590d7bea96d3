"""Be killed at one point while a large body is stored: `python -m tests.blobs.killed FOLDER POINT [KEY]`.

POINT is `written` (the file is there, the unit not committed), `renaming` (the file has its first name only) or
`committed`. With a KEY of 32 characters it is encrypted.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

from gatepost.base.clock import Instant
from gatepost.base.ids import Minter
from gatepost.blobs import bodies
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.keys import Key, Keys
from gatepost.blobs.sql import SCHEMA
from gatepost.db.sqlite import open_database
from gatepost.db.unit import Unit
from gatepost.db.writer import Floor


async def main(folder: Path, point: str, keys: Keys) -> None:
    """Store one body as far as `point`."""
    database = await open_database(folder / "mail.db", (SCHEMA,), steady=time.monotonic, floor=Floor(0))
    if point == "renaming":
        Path.rename = lambda self, target: os.kill(os.getpid(), 9)  # type: ignore[method-assign,assignment,return-value]
    body = Minter(0).mint(Instant(1_795_420_800_000_000))
    steps = await Blobs(database, folder / "bodies", keys=keys).put(body, os.urandom(bodies.INLINE_MAX * 2), 1)
    if point == "committed":
        await database.commit(Unit(steps))
    os.kill(os.getpid(), 9)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Keys([Key(each.encode()) for each in sys.argv[3:]])))
