"""The two databases of a data directory: what is in them, and how a process reaches them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gatepost.accounts.sql import SCHEMA as ACCOUNTS
from gatepost.allowance.sql import SCHEMA as ALLOWANCE
from gatepost.blobs.sql import SCHEMA as BLOBS
from gatepost.db.client import KeeperClient
from gatepost.db.keeper import socket_path
from gatepost.db.sqlite import SqliteDatabase, open_database
from gatepost.db.unit import Database, Schema
from gatepost.diary.refused.sql import SCHEMA as REFUSED
from gatepost.diary.sql import SCHEMA as DIARY
from gatepost.dmarcrpt.sql import SCHEMA as DMARCRPT
from gatepost.gate.sql import SCHEMA as GATE
from gatepost.incidents.sql import SCHEMA as INCIDENTS
from gatepost.judge.sql import SCHEMA as JUDGE
from gatepost.queue.sql import SCHEMA as QUEUE
from gatepost.store.sql import SCHEMA as STORE
from gatepost.tlsrpt.sql import SCHEMA as TLSRPT

MAIL_SCHEMAS: Final[tuple[Schema, ...]] = (ACCOUNTS, ALLOWANCE, BLOBS, DIARY, INCIDENTS, JUDGE, QUEUE, STORE)
GATE_SCHEMAS: Final[tuple[Schema, ...]] = (DMARCRPT, GATE, REFUSED, TLSRPT)


@dataclass(frozen=True, slots=True)
class Databases:
    """`mail` may lose nothing; `gate` (greylist, bans, counts) may lose seconds."""

    mail: Database
    gate: Database


def mail_path(data_dir: Path) -> Path:
    """Return the file of mail, accounts and queue."""
    return data_dir / "mail.db"


def gate_path(data_dir: Path) -> Path:
    """Return the file of the gate."""
    return data_dir / "gate.db"


async def reach(path: Path, schemas: tuple[Schema, ...], *, durable: bool) -> KeeperClient | SqliteDatabase:
    """Connect to the keeper of a file; where none runs, open the file in this process."""
    client = KeeperClient(path, socket_path(path))
    try:
        await client.connect()
    except OSError:
        await client.close()
        return await open_database(path, schemas, steady=time.monotonic, durable=durable)
    return client


@asynccontextmanager
async def reached(data_dir: Path) -> AsyncIterator[Databases]:
    """Both databases for one command, whether the server runs or not."""
    mail = await reach(mail_path(data_dir), MAIL_SCHEMAS, durable=True)
    try:
        gate = await reach(gate_path(data_dir), GATE_SCHEMAS, durable=False)
        try:
            yield Databases(mail, gate)
        finally:
            await gate.close()
    finally:
        await mail.close()
