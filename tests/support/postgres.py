"""A private PostgreSQL server for the tests: a temporary folder, a unix socket only, an unprivileged user."""

import atexit
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Final

import psycopg

from gatepost.db.postgres import open_database
from gatepost.db.unit import Database, Schema
from tests.support.peers import program

BINARIES: Final = "/usr/lib/postgresql/15/bin/"
_numbers = itertools.count()


@cache
def server() -> Path:
    """Start the server once a session; return the folder of its socket."""
    initdb, postgres = program("initdb", BINARIES + "initdb"), program("postgres", BINARIES + "postgres")
    folder = Path(tempfile.mkdtemp(prefix="gatepost-pg-", dir="/tmp"))
    user: str | None = None
    if os.geteuid() == 0:
        user = next(name for name in ("postgres", "nobody") if _exists(name))
        shutil.chown(folder, user)
    folder.chmod(0o700)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    data = folder / "data"
    made = [initdb, "-D", str(data), "-A", "trust", "-U", "gatepost", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(made, check=True, user=user, cwd=folder, **quiet)  # type: ignore[call-overload]  # **quiet
    command = [postgres, "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(command, user=user, cwd=folder, **quiet)  # type: ignore[call-overload]  # **quiet
    atexit.register(_stop, process, folder)
    for _ in range(600):
        try:
            psycopg.connect(f"host={folder} user=gatepost dbname=postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return folder
    raise RuntimeError("PostgreSQL did not start within 30 s")


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _stop(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    process.send_signal(signal.SIGQUIT)
    process.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


def fresh_dsn() -> str:
    """Make an empty database on the private server; return how to connect to it."""
    folder, name = server(), f"test{next(_numbers)}"
    with psycopg.connect(f"host={folder} user=gatepost dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return f"host={folder} user=gatepost dbname={name}"


@asynccontextmanager
async def open_postgres(schemas: tuple[Schema, ...]) -> AsyncIterator[Database]:
    """A fresh database on the private server with the tables of `schemas`."""
    database = await open_database(fresh_dsn(), schemas)
    try:
        yield database
    finally:
        await database.close()
