"""Append messages without end and say each UID once it is durable: a process to be killed."""

import asyncio
import sys
import time
from pathlib import Path

from gatepost.aio.clock import SystemClock
from gatepost.base.ids import Minter
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.sql import SCHEMA as BLOBS
from gatepost.db.sqlite import open_database
from gatepost.db.unit import Unit
from gatepost.db.writer import Floor
from gatepost.store.mailbox import Mailboxes
from gatepost.store.sql import SCHEMA as STORE
from gatepost.store.verbs import create_default_mailboxes_steps
from tests.store.world import ANN, MAIL


async def main(folder: Path) -> None:
    """Open the database in `folder` and append from eight tasks."""
    clock, minter = SystemClock(), Minter(0)
    database = await open_database(folder / "mail.db", (BLOBS, STORE), steady=time.monotonic, floor=Floor(0))
    mailboxes = Mailboxes(database, Blobs(database, folder / "bodies"), minter)
    if not await mailboxes.of(ANN):
        await database.commit(Unit(create_default_mailboxes_steps(ANN, minter, clock.now())))
    inbox = await mailboxes.inbox(ANN)

    async def append() -> None:
        while True:
            now = clock.now()
            done = await mailboxes.append(inbox, MAIL, 0, now, now)
            print(done.uidvalidity, done.uid, flush=True)

    await asyncio.gather(*(append() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
