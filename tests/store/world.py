"""An account with its mailboxes over real bodies, on either engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gatepost.base.clock import Instant, later, seconds
from gatepost.base.ids import Minter
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.sql import SCHEMA as BLOBS
from gatepost.db.unit import Database, Statement, Unit
from gatepost.store.mailbox import Mailboxes
from gatepost.store.model import Appended, MailboxId
from gatepost.store.sql import SCHEMA as STORE
from gatepost.store.verbs import create_default_mailboxes_steps
from tests.support.databases import OpenDatabase

NOW = Instant(1_795_420_800_000_000)
ANN = 7
BOB = 8

MAIL = (
    b"From: Ann <ann@sender.example>\r\nTo: joe@example.org\r\nSubject: Re: [garden] peas\r\n"
    b"Date: Mon, 23 Nov 2026 10:00:00 +0100\r\nMessage-ID: <two@sender.example>\r\n"
    b"References: <one@sender.example>\r\n\r\nThe peas are in.\r\n"
)


@dataclass
class World:
    """What a test needs."""

    database: Database
    mailboxes: Mailboxes
    minter: Minter
    now: Instant = NOW

    async def add(self, mailbox: MailboxId, flags: int = 0, raw: bytes = MAIL) -> Appended:
        """Append a message a second after the last one."""
        self.now = later(self.now, seconds(1))
        return await self.mailboxes.append(mailbox, raw, flags, self.now, self.now)

    async def uids(self, mailbox: MailboxId) -> list[int]:
        """Return all UIDs."""
        return [uid for uid, _, _ in await self.mailboxes.rows(mailbox)]

    async def count(self, table: str) -> int:
        """Return how many rows a table has."""
        rows = await self.database.read(Statement(f"test.count_{table}", f"SELECT COUNT(*) FROM {table}"), {})
        return int(str(rows[0][0]))


@asynccontextmanager
async def world(open_db: OpenDatabase) -> AsyncIterator[World]:
    """Open a database with two accounts, ANN and BOB, that have their default mailboxes."""
    minter = Minter(0)
    with TemporaryDirectory(prefix="gatepost-test-") as folder:
        async with open_db((BLOBS, STORE)) as database:
            for account in (ANN, BOB):
                await database.commit(Unit(create_default_mailboxes_steps(account, minter, NOW)))
            blobs = Blobs(database, Path(folder))
            yield World(database, Mailboxes(database, blobs, minter), minter)
