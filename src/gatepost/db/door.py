"""The keeper's door in a process that writes its file itself: commands of the same user hand their units in."""

import asyncio
import socket
from collections.abc import Mapping

from gatepost.db.frames import BadFrame, FrameReader, Request, answer_frame, news_frame, read_request
from gatepost.db.keeper import peer_allowed
from gatepost.db.sqlite import SqliteDatabase
from gatepost.db.unit import Clash, NotCommitted, Notice, Rows, Statement, Step, Unit


class Door:
    """Answers frames on a unix socket with the units of one SqliteDatabase."""

    def __init__(self, database: SqliteDatabase, statements: Mapping[str, Statement]) -> None:
        self.database = database
        self.statements = statements
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        """Serve on a listening unix socket."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Visitor(self), sock=listener)

    def close(self) -> None:
        """Stop accepting."""
        if self._server is not None:
            self._server.close()

    async def commit(self, request: Request) -> tuple[Rows, ...] | NotCommitted:
        """Commit what a visitor asks for."""
        unknown = [name for name, _ in request.steps if name not in self.statements]
        if unknown:
            return Clash(f"no statement is named {unknown[0]}")
        steps = tuple(Step(self.statements[name], params) for name, params in request.steps)
        try:
            return await self.database.commit(Unit(steps, tuple(Notice(*each) for each in request.notices)))
        except NotCommitted as refused:
            return refused


class _Visitor(asyncio.Protocol):
    def __init__(self, door: Door) -> None:
        self._door = door
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if not peer_allowed(transport.get_extra_info("socket")):
            transport.abort()
            return
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for content in self._frames.feed(data):
                task = asyncio.get_running_loop().create_task(self._answer(read_request(content)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except BadFrame:
            self._transport.abort()

    async def _answer(self, request: Request) -> None:
        outcome = await self._door.commit(request)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer_frame(request.number, outcome))
            if request.notices and not isinstance(outcome, NotCommitted):
                self._transport.write(news_frame(request.notices))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
