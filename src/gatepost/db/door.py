"""The keeper's door in a process that writes its file itself: commands of the same user hand their units in."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from typing import cast

from gatepost.db.frames import (
    BadFrame,
    FrameReader,
    Request,
    answer_frame,
    leave_frame,
    let_go_frame,
    news_frame,
    read_request,
)
from gatepost.db.keeper import FAREWELL_S, peer_allowed
from gatepost.db.sqlite import SqliteDatabase
from gatepost.db.unit import NotCommitted, Notice, Rows, Statement, Unhealthy


class Door:
    """Answers frames on a unix socket with the units of one SqliteDatabase, and tells visitors its news."""

    def __init__(self, database: SqliteDatabase, statements: Mapping[str, Statement]) -> None:
        self._database = database
        self._statements = statements
        self._server: asyncio.Server | None = None
        self._visitors: set[_Visitor] = set()
        database.overhear = self._tell_news
        database.let_go = lambda closed: self._tell(let_go_frame(closed=closed))

    async def open(self, listener: socket.socket) -> None:
        """Serve on a listening unix socket."""
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Visitor(self), sock=listener)

    async def close(self) -> None:
        """Stop accepting, send the visitors away, and answer what they asked for until then."""
        if self._server is not None:
            self._server.close()
        self._tell(leave_frame())
        partings = [visitor.part() for visitor in tuple(self._visitors)]
        await asyncio.gather(*partings)

    def came(self, visitor: "_Visitor") -> None:
        """Know of a visitor."""
        self._visitors.add(visitor)

    def left(self, visitor: "_Visitor") -> None:
        """Forget a visitor."""
        self._visitors.discard(visitor)

    async def commit(self, request: Request) -> tuple[Rows, ...] | NotCommitted:
        """Commit what a visitor asks for."""
        for name, _ in request.steps:
            if name not in self._statements:
                return Unhealthy(f"no statement is named {name}")
        try:
            notices = tuple(Notice(*each) for each in request.notices)
            return await self._database.commit_steps(tuple(request.steps), notices)
        except NotCommitted as refused:
            return refused

    def _tell_news(self, notices: Sequence[Notice]) -> None:
        if self._visitors:
            self._tell(news_frame(notices))

    def _tell(self, frame: bytes) -> None:
        for visitor in self._visitors:
            visitor.tell(frame)


class _Visitor(asyncio.Protocol):
    def __init__(self, door: Door) -> None:
        self._door = door
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if not peer_allowed(transport.get_extra_info("socket")):
            transport.abort()
            return
        self._transport = transport
        self._door.came(self)

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

    def tell(self, frame: bytes) -> None:
        """Send a frame, if it is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame)

    async def part(self) -> None:
        """Wait until it has shut its side, FAREWELL_S at most, and has its answers; close its connection."""
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._left.wait()
        except TimeoutError:
            pass
        await asyncio.gather(*self._tasks)
        if self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        """Keep its connection while it waits for answers."""
        self._left.set()
        if not self._tasks and self._transport is not None:
            self._transport.close()
        return True

    async def _answer(self, request: Request) -> None:
        self.tell(answer_frame(request.number, await self._door.commit(request)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._left.set()
        self._door.left(self)
