"""Read-only connections to one SQLite file: one for short reads on the loop, a few in threads for long ones."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import apsw

from gatepost.db.files import open_reading
from gatepost.db.migrate import sqlite_text
from gatepost.db.params import checked
from gatepost.db.unit import Params, Rows, Statement, Unhealthy

LONG_READERS: Final = 2


class Readers:
    """Runs SELECTs. Every read is a transaction of its own: no snapshot outlives it, so the log can restart.

    `let_go(True)` closes every connection, and reads are Unhealthy until `let_go(False)`: the writer's file is
    being recovered and nobody else may have it open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._near: apsw.Connection | None = None
        self._far: list[apsw.Connection] = []
        self._guard = threading.Lock()
        self._closed = False
        self._threads: ThreadPoolExecutor | None = None

    def read(self, statement: Statement, params: Params) -> Rows:
        """Run a short SELECT here and now."""
        if self._closed:
            raise Unhealthy("the database is being checked")
        try:
            if self._near is None:
                self._near = open_reading(self._path)
            return self._near.execute(sqlite_text(statement.sql), checked(params)).fetchall()
        except (apsw.SQLError, apsw.BindingsError):
            raise  # a bug, not the weather
        except apsw.Error as error:
            raise Unhealthy(str(error)) from error

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run a SELECT in a thread: one long query releases the interpreter."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LONG_READERS, "reader")
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._far_read, statement, checked(params)
        )

    def let_go(self, closed: bool) -> None:
        """Close every connection and stay closed, or allow reads again; called on the loop."""
        with self._guard:
            self._closed = closed
            idle, self._far = self._far, []
        for connection in idle:
            connection.close(True)
        if self._near is not None:
            self._near.close(True)
            self._near = None

    def close(self) -> None:
        """Close every connection for good."""
        if self._threads is not None:
            self._threads.shutdown()
        self.let_go(True)

    def _far_read(self, statement: Statement, params: Params) -> Rows:
        try:
            connection = self._take()
            try:
                return connection.execute(sqlite_text(statement.sql), params).fetchall()
            finally:
                self._give(connection)
        except (apsw.SQLError, apsw.BindingsError):
            raise
        except apsw.Error as error:
            raise Unhealthy(str(error)) from error

    def _take(self) -> apsw.Connection:
        with self._guard:
            if self._closed:
                raise Unhealthy("the database is being checked")
            if self._far:
                return self._far.pop()
        return open_reading(self._path)

    def _give(self, connection: apsw.Connection) -> None:
        with self._guard:
            if not self._closed:
                self._far.append(connection)
                return
        connection.close(True)
