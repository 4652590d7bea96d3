"""A domain with accounts, hashed cheaply, on either engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gatepost.accounts import verbs
from gatepost.accounts.directory import Directory
from gatepost.accounts.model import NO_QUOTA, AccountId, Quota
from gatepost.accounts.password import Hasher
from gatepost.accounts.settings import AccountSettings
from gatepost.accounts.sql import SCHEMA
from gatepost.base.address import Address
from gatepost.base.clock import Instant
from gatepost.base.ids import Minter
from gatepost.base.units import Octets
from gatepost.db.unit import Database, Unit
from tests.support.databases import OpenDatabase

NOW = Instant(1_795_420_800_000_000)
CHEAP = AccountSettings(password_rounds=1, password_memory=Octets(64 << 10))


class StillClock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> Instant:
        """Return one moment."""
        return NOW

    def steady(self) -> float:
        """Return what the test set."""
        return self.seconds


@dataclass
class World:
    """What a test needs."""

    database: Database
    hasher: Hasher
    directory: Directory
    clock: StillClock
    minter: Minter = field(default_factory=lambda: Minter(0))

    async def add(
        self, address: str, password: bytes = b"secret", *, admin: bool = False, quota: Quota = NO_QUOTA
    ) -> AccountId:
        """Make an account."""
        made = await verbs.add_user(
            self.database, self.hasher, self.minter, address, password, NOW, admin=admin, quota=quota
        )
        async with self.told():
            await self.database.commit(Unit(made.steps, made.notices))
        return made.id

    async def alias(self, address: str, *targets: str) -> None:
        """Make an alias."""
        async with self.told():
            await verbs.add_alias(self.database, address, targets, NOW)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Wait until the news of what is committed inside has arrived: PostgreSQL sends it behind the commit."""
        arrived = asyncio.Event()
        stop = self.database.listen("accounts", lambda _: arrived.set())
        yield
        await asyncio.wait_for(arrived.wait(), 10)
        stop()


@asynccontextmanager
async def world(
    open_db: OpenDatabase, settings: AccountSettings = CHEAP, domains: tuple[str, ...] = ("example.org",)
) -> AsyncIterator[World]:
    """Open a database with domains."""
    async with open_db((SCHEMA,)) as database:
        hasher, clock = Hasher(settings), StillClock()
        for domain in domains:
            await verbs.add_domain(database, domain, NOW)
        try:
            yield World(database, hasher, Directory(database, hasher, clock, settings), clock)
        finally:
            hasher.close()


def at(text: str) -> Address:
    """Read `local@domain` without any checks."""
    local, _, domain = text.rpartition("@")
    return Address(local, domain)
