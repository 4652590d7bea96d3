"""Both engines for every stage's SQL: SQLite in a temporary folder, PostgreSQL in a private server."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from gatepost.db.sqlite import open_database
from gatepost.db.unit import Database, Schema
from gatepost.db.writer import Floor
from tests.support import postgres

OpenDatabase = Callable[[tuple[Schema, ...]], AbstractAsyncContextManager[Database]]


@asynccontextmanager
async def open_sqlite(schemas: tuple[Schema, ...]) -> AsyncIterator[Database]:
    """A fresh SQLite file with the tables of `schemas`."""
    with TemporaryDirectory(prefix="gatepost-test-") as folder:
        path = Path(folder) / "mail.db"
        database = await open_database(path, schemas, steady=time.monotonic, floor=Floor(0))
        try:
            yield database
        finally:
            await database.close()


def each_engine(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test with `open_db` bound to each engine; PostgreSQL is left out where it is not installed."""
    engines = [
        pytest.param(open_sqlite, id="sqlite"),
        pytest.param(postgres.open_postgres, id="postgres", marks=pytest.mark.peer("postgresql")),
    ]
    parametrized: Callable[..., None] = pytest.mark.parametrize("open_db", engines)(test)
    return parametrized
