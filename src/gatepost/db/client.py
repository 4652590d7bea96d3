"""A Database whose writer is a keeper in another process: reads here, units over its socket."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Final, cast

from gatepost.db.frames import BadFrame, FrameReader, Leave, LetGo, News, read_answer, request_frame
from gatepost.db.listeners import Listeners
from gatepost.db.migrate import all_due
from gatepost.db.readers import Readers
from gatepost.db.sqlite import steps_of
from gatepost.db.unit import NotCommitted, Params, Rows, Schema, Statement, Unhealthy, Unit

RECONNECT_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
IN_FLIGHT_MAX: Final = 8192
UNSENT_MAX: Final = 64 << 20
PATIENCE_S: Final = 3.0  # a keeper that died, or was replaced in an upgrade, is back much sooner
ANSWER_S: Final = 30.0  # a keeper that is there and says nothing so long is hung
LOOK_S: Final = 5.0
LOOK_AT_TABLES_S: Final = 0.05
VERSIONS: Final = Statement("db.versions", "SELECT stage, version FROM schema_version")


async def tables_made(client: "KeeperClient", schemas: Sequence[Schema], waiting: Callable[[], None]) -> None:
    """Return when the tables are those of `schemas`; call `waiting` once where that takes a while.

    In an upgrade the keeper of the generation before has the file until that one has drained, and only the next one
    makes what is new. Raises SchemaTooNew where the tables are of a later gatepost.
    """
    told = False
    while True:
        with contextlib.suppress(Unhealthy):  # one keeper follows the other
            versions = {str(stage): int(str(version)) for stage, version in await client.read(VERSIONS, {})}
            if not all_due(schemas, versions):
                return
        if not told:
            told = True
            waiting()
        await asyncio.sleep(LOOK_AT_TABLES_S)


class KeeperClient:
    """Hands units to the keeper; while it is away, every unit is Unhealthy and mail waits with its sender.

    A unit that was sent and not answered is Unhealthy too: it may have been committed. For a mail this is the
    window of RFC 1047: the sender tries again and may deliver twice, never not at all.
    """

    def __init__(self, path: Path, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._readers = Readers(path)
        self._listeners = Listeners()
        self._number = 0
        self._looked_at = 0
        self._waited = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._stream: _Stream | None = None
        self._reconnects: asyncio.Task[None] | None = None
        self._ends = False

    async def connect(self) -> None:
        """Connect; OSError where nobody keeps the file."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: _Stream(self), str(self._socket_path))
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
        if self._stream is None and not await self._back():
            raise Unhealthy("the keeper is away")
        stream = self._stream
        if stream is None:
            raise Unhealthy("the keeper went away again")
        self._number += 1
        return await stream.send(self._number, request_frame(self._number, steps, unit.notices))

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
        if self._stream is not None:
            self._stream.close()
        self._readers.close()

    def told(self, what: News | LetGo) -> None:
        """Take what the keeper tells everybody."""
        if isinstance(what, News):
            self._listeners.tell(what.notices)
        elif not self._ends:
            self._readers.let_go(what.closed)

    def joined(self, stream: "_Stream") -> None:
        """Hand units to this keeper from now on."""
        self._stream = stream

    def parted(self, stream: "_Stream") -> None:
        """The keeper ends, or went away: look for the next one."""
        if stream is not self._stream:
            return
        self._stream = None
        if not self._ends:
            self._readers.let_go(False)
            self._reconnects = asyncio.get_running_loop().create_task(self._reconnect())

    def _look(self) -> None:
        """Every LOOK_S: leave a keeper that has not answered the oldest unit for ANSWER_S."""
        oldest = self._stream.oldest if self._stream is not None else 0
        self._waited = self._waited + LOOK_S if oldest and oldest == self._looked_at else 0.0
        self._looked_at = oldest
        if self._waited >= ANSWER_S and self._stream is not None:
            self._stream.abort()
        self._watch = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    async def _back(self) -> bool:
        """Tell whether the keeper came back within PATIENCE_S: units that were not sent yet lose nothing."""
        if self._reconnects is None or self._ends:
            return False
        await asyncio.wait({self._reconnects}, timeout=PATIENCE_S)
        return self._stream is not None

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
    """One connection to a keeper, and the units that wait for its answers."""

    def __init__(self, client: KeeperClient) -> None:
        self._client = client
        self._frames = FrameReader()
        self._futures: dict[int, asyncio.Future[tuple[Rows, ...]]] = {}
        self._transport: asyncio.Transport | None = None

    @property
    def oldest(self) -> int:
        """The number of the unit that waits longest; 0 for none."""
        return next(iter(self._futures), 0)

    async def send(self, number: int, frame: bytes) -> tuple[Rows, ...]:
        """Send a unit and wait for its answer."""
        transport = self._transport
        if transport is None or len(self._futures) >= IN_FLIGHT_MAX:
            raise Unhealthy("too many units wait")
        if transport.get_write_buffer_size() > UNSENT_MAX:
            raise Unhealthy("too much waits for the keeper")
        future: asyncio.Future[tuple[Rows, ...]] = asyncio.get_running_loop().create_future()
        self._futures[number] = future
        transport.write(frame)
        return await future

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._client.joined(self)

    def data_received(self, data: bytes) -> None:
        try:
            for content in self._frames.feed(data):
                self._take(*read_answer(content))
        except BadFrame:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._client.parted(self)
        futures, self._futures = self._futures, {}
        for future in futures.values():
            if not future.done():
                future.set_exception(Unhealthy("the keeper went away before it answered"))

    def _take(self, number: int, what: tuple[Rows, ...] | NotCommitted | News | LetGo | Leave) -> None:
        match what:
            case Leave():
                self._client.parted(self)
                if self._transport is not None:
                    self._transport.write_eof()
            case News() | LetGo():
                self._client.told(what)
            case _:
                self._answered(number, what)

    def _answered(self, number: int, outcome: tuple[Rows, ...] | NotCommitted) -> None:
        future = self._futures.pop(number, None)
        if future is None or future.done():
            return
        if isinstance(outcome, NotCommitted):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
