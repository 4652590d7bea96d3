"""A Database whose writer is a keeper in another process: reads here, units over its socket."""

import asyncio
import contextlib
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Final

from gatepost.db.frames import BadFrame, FrameReader, LetGo, News, read_answer, request_frame
from gatepost.db.listeners import Listeners
from gatepost.db.readers import Readers
from gatepost.db.sqlite import steps_of
from gatepost.db.unit import NotCommitted, Params, Rows, Statement, Unhealthy, Unit

RECONNECT_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
IN_FLIGHT_MAX: Final = 8192
UNSENT_MAX: Final = 64 << 20
PATIENCE_S: Final = 3.0  # a keeper that died, or was replaced in an upgrade, is back much sooner
ANSWER_S: Final = 30.0  # a keeper that is there and says nothing so long is hung
LOOK_S: Final = 5.0


class KeeperClient:
    """Hands units to the keeper; while it is away, every unit is Unhealthy and mail waits with its sender.

    A unit that was sent and not answered is Unhealthy too: it may have been committed. For a mail this is the
    window of RFC 1047: the sender tries again and may deliver twice, never not at all.
    """

    def __init__(self, path: Path, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._readers = Readers(path)
        self._listeners = Listeners()
        self._futures: dict[int, asyncio.Future[tuple[Rows, ...]]] = {}
        self._number = 0
        self._looked_at = 0
        self._waited = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._reconnects: asyncio.Task[None] | None = None
        self._ends = False

    async def connect(self) -> None:
        """Connect; OSError where nobody keeps the file."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: _Stream(self), str(self._socket_path))
        self._transport = transport
        self._readers.let_go(False)
        if self._watch is None:
            self._watch = loop.call_later(LOOK_S, self._look)

    async def read(self, statement: Statement, params: Params) -> Rows:
        """Run a short SELECT on this process's own connection."""
        return self._readers.read(statement, params)

    async def read_long(self, statement: Statement, params: Params) -> Rows:
        """Run a SELECT off the loop."""
        return await self._readers.read_long(statement, params)

    async def commit(self, unit: Unit) -> tuple[Rows, ...]:
        """Send a unit and wait for its answer; while the keeper is away, wait a moment for it first."""
        steps = steps_of(unit)
        if self._transport is None and not await self._back():
            raise Unhealthy("the keeper is away")
        transport = self._transport
        if transport is None or len(self._futures) >= IN_FLIGHT_MAX:
            raise Unhealthy("too many units wait")
        if transport.get_write_buffer_size() > UNSENT_MAX:
            raise Unhealthy("too much waits for the keeper")
        self._number += 1
        future: asyncio.Future[tuple[Rows, ...]] = asyncio.get_running_loop().create_future()
        self._futures[self._number] = future
        transport.write(request_frame(self._number, steps, unit.notices))
        return await future

    def listen(self, topic: str, heard: Callable[[int], None]) -> Callable[[], None]:
        """Hear of what any process committed; key 0 after the keeper was away: anything may have changed."""
        return self._listeners.add(topic, heard)

    async def close(self) -> None:
        """Disconnect."""
        self._ends = True
        if self._watch is not None:
            self._watch.cancel()
        if self._reconnects is not None:
            self._reconnects.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reconnects
        if self._transport is not None:
            self._transport.close()
        self._readers.close()

    def answered(self, content: bytes) -> None:
        """Take one frame from the keeper."""
        number, what = read_answer(content)
        if isinstance(what, News):
            self._listeners.tell(what.notices)
            return
        if isinstance(what, LetGo):
            if not self._ends:
                self._readers.let_go(what.closed)
            return
        future = self._futures.pop(number, None)
        if future is None or future.done():
            return
        if isinstance(what, NotCommitted):
            future.set_exception(what)
        else:
            future.set_result(what)

    def lost(self) -> None:
        """The keeper went away: fail what is in flight, and try to find it again."""
        self._transport = None
        futures, self._futures = self._futures, {}
        for future in futures.values():
            if not future.done():
                future.set_exception(Unhealthy("the keeper went away before it answered"))
        if not self._ends:
            self._readers.let_go(False)
            self._reconnects = asyncio.get_running_loop().create_task(self._reconnect())

    def _look(self) -> None:
        """Every LOOK_S: leave a keeper that has not answered the oldest unit for ANSWER_S."""
        oldest = next(iter(self._futures), 0)
        self._waited = self._waited + LOOK_S if oldest and oldest == self._looked_at else 0.0
        self._looked_at = oldest
        if self._waited >= ANSWER_S and self._transport is not None:
            self._transport.abort()
        self._watch = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    async def _back(self) -> bool:
        """Tell whether the keeper came back within PATIENCE_S: units that were not sent yet lose nothing."""
        if self._reconnects is None or self._ends:
            return False
        await asyncio.wait({self._reconnects}, timeout=PATIENCE_S)
        return self._transport is not None

    async def _reconnect(self) -> None:
        for wait in chain(RECONNECT_S, repeat(RECONNECT_S[-1])):
            await asyncio.sleep(wait)
            try:
                await self.connect()
            except OSError:
                continue
            self._listeners.tell_everything()
            return


class _Stream(asyncio.Protocol):
    """The client's end of the socket."""

    def __init__(self, client: KeeperClient) -> None:
        self._client = client
        self._frames = FrameReader()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                self._client.answered(content)
        except BadFrame:
            if self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost()
