"""Units across a process's border: a keeper's loop, and the door of a process that is its own keeper."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from gatepost.db.client import KeeperClient, tables_made
from gatepost.db.door import Door
from gatepost.db.files import in_use
from gatepost.db.keeper import Keeper, listen_at, socket_path
from gatepost.db.migrate import SchemaTooNew, by_name
from gatepost.db.sqlite import open_database
from gatepost.db.unit import Clash, NotCommitted, Notice, Step, Unhealthy, Unit, Unmet
from gatepost.db.writer import DatabaseInUse, Writer
from tests.db.world import IDS, RENAME, SCHEMA, TAKE, add, adds, open_writer
from tests.support.loop import run

Kept = Callable[[Path], AbstractAsyncContextManager[None]]
MOST: Final = 20.0  # s


@asynccontextmanager
async def by_keeper(folder: Path) -> AsyncIterator[None]:
    """Keep `mail.db` by a keeper's loop, in a thread instead of a process."""
    writer = await asyncio.to_thread(patient_writer, folder)
    keeper = Keeper(writer, listen_at(socket_path(folder / "mail.db")))
    thread = threading.Thread(target=keeper.run)
    thread.start()
    try:
        yield
    finally:
        keeper.stop()
        await asyncio.to_thread(thread.join)


@asynccontextmanager
async def by_door(folder: Path) -> AsyncIterator[None]:
    """Keep `mail.db` in a process that has a door for others, as a lone worker does."""
    path = folder / "mail.db"
    database = await open_database(path, (SCHEMA,), steady=time.monotonic, patience=MOST)
    door = Door(database, by_name((SCHEMA,)))
    await door.open(listen_at(socket_path(path)))
    try:
        yield
    finally:
        await door.close()
        await database.close()


def patient_writer(folder: Path) -> Writer:
    """Open the file when the one who has it has let it go."""
    ends = time.monotonic() + MOST
    while True:
        try:
            return open_writer(folder)
        except DatabaseInUse:
            assert time.monotonic() < ends
            time.sleep(0.005)


@asynccontextmanager
async def client_of(folder: Path) -> AsyncIterator[KeeperClient]:
    """Connect as a worker does."""
    path = folder / "mail.db"
    client = KeeperClient(path, socket_path(path))
    await client.connect()
    try:
        yield client
    finally:
        await client.close()


each_kind = pytest.mark.parametrize("kept", [by_keeper, by_door])


@each_kind
def test_units_rows_refusals_and_news_cross_the_border(kept: Kept, tmp_path: Path) -> None:
    async def scene() -> None:
        async with kept(tmp_path), client_of(tmp_path) as here, client_of(tmp_path) as there:
            heard: asyncio.Queue[int] = asyncio.Queue()
            there.listen("thing", heard.put_nowait)
            await here.commit(Unit((add(1, "a", b"\0\xff"), add(2, "b")), (Notice("thing", 7),)))
            async with asyncio.timeout(MOST):
                assert await heard.get() == 7
            assert await there.read(IDS, {}) == [(1,), (2,)]
            assert await there.commit(Unit((Step(TAKE, {"id": 2}),))) == ([("b",)],)
            with pytest.raises(Clash):
                await here.commit(Unit((add(3), add(1)), (Notice("thing", 8),)))
            with pytest.raises(Unmet, match=r"t\.rename"):
                await here.commit(Unit((Step(RENAME, {"id": 9, "name": "x"}),)))
            assert await here.read_long(IDS, {}) == [(1,)]
            assert heard.empty()

    run(scene())


@pytest.mark.parametrize("first", [by_keeper, by_door])
@pytest.mark.parametrize("second", [by_keeper, by_door])
def test_when_one_keeper_follows_another_no_unit_is_refused(first: Kept, second: Kept, tmp_path: Path) -> None:
    """An upgrade: units come all the time, each is committed once, nobody is told that it was not."""

    async def scene() -> None:
        done: list[int] = []
        ends = asyncio.Event()
        fresh = iter(range(1, 1_000_000))

        async def load(client: KeeperClient) -> None:
            while not ends.is_set():
                key = next(fresh)
                await client.commit(adds(key))
                done.append(key)

        async def at_least(count: int) -> None:
            goal = len(done) + count
            async with asyncio.timeout(MOST):
                while len(done) < goal:
                    await asyncio.sleep(0)

        async with contextlib.AsyncExitStack() as stack:
            old = await stack.enter_async_context(contextlib.AsyncExitStack())
            await old.enter_async_context(first(tmp_path))
            clients = [await stack.enter_async_context(client_of(tmp_path)) for _ in range(2)]
            async with asyncio.TaskGroup() as group:
                for client in clients * 4:
                    group.create_task(load(client))
                await at_least(50)
                next_one = second(tmp_path)
                entering = group.create_task(next_one.__aenter__())
                await old.aclose()
                await entering
                await at_least(50)
                ends.set()
            rows = await clients[0].read_long(IDS, {})
            await next_one.__aexit__(None, None, None)
            assert [row[0] for row in rows] == sorted(done)

    run(scene())


def test_a_keeper_that_dies_leaves_what_is_under_way_unhealthy_and_the_next_one_is_found(tmp_path: Path) -> None:
    async def scene() -> None:
        path = tmp_path / "mail.db"
        listener = listen_at(socket_path(path))
        async with client_of(tmp_path) as client:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            sent = asyncio.ensure_future(client.commit(adds(1)))
            await asyncio.get_running_loop().sock_recv(accepted, 65536)
            accepted.close()
            listener.close()
            with pytest.raises(Unhealthy, match="before it answered"):
                await sent
            async with by_keeper(tmp_path):
                await client.commit(adds(2))
                assert await client.read(IDS, {}) == [(2,)]

    run(scene())


@each_kind
def test_what_is_no_frame_ends_the_connection_and_no_other(kept: Kept, tmp_path: Path) -> None:
    async def scene() -> None:
        async with kept(tmp_path), client_of(tmp_path) as client:
            for junk in (b"\xff\xff\xff\xff", b"\0\0\0\2hi", b"GET / HTTP/1.0\r\n\r\n"):
                stranger = socket.socket(socket.AF_UNIX)
                stranger.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(stranger, str(socket_path(tmp_path / "mail.db")))
                await loop.sock_sendall(stranger, junk)
                stranger.shutdown(socket.SHUT_WR)
                async with asyncio.timeout(MOST):
                    assert await loop.sock_recv(stranger, 100) == b""
                stranger.close()
            await client.commit(adds(1))

    run(scene())


@each_kind
def test_a_statement_that_is_not_known_is_refused_and_nothing_else(kept: Kept, tmp_path: Path) -> None:
    async def scene() -> None:
        async with kept(tmp_path), client_of(tmp_path) as client:
            step = add(1)
            other = Step(type(step.statement)("t.other", step.statement.sql), step.params)
            with pytest.raises(NotCommitted):
                await client.commit(Unit((other,)))
            await client.commit(adds(1))

    run(scene())


def test_a_file_is_in_use_while_it_is_kept(tmp_path: Path) -> None:
    async def scene() -> None:
        assert not in_use(tmp_path / "mail.db")
        async with by_keeper(tmp_path):
            assert in_use(tmp_path / "mail.db")
        assert not in_use(tmp_path / "mail.db")

    run(scene())


NEXT = replace(SCHEMA, migrations=(*SCHEMA.migrations, ("0002_more", "ALTER TABLE thing ADD COLUMN more TEXT;\n")))


def test_workers_of_a_new_version_wait_for_their_tables_and_old_ones_are_told_the_way(tmp_path: Path) -> None:
    """An upgrade: the old keeper has the file until its workers have drained; only the new one adds the column."""

    async def scene() -> None:
        waits = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            old = await stack.enter_async_context(contextlib.AsyncExitStack())
            await old.enter_async_context(by_keeper(tmp_path))
            client = await stack.enter_async_context(client_of(tmp_path))
            await tables_made(client, (SCHEMA,), waits.set)
            assert not waits.is_set()
            made = asyncio.ensure_future(tables_made(client, (NEXT,), waits.set))
            async with asyncio.timeout(MOST):
                await waits.wait()
                assert not made.done()
                await old.aclose()
                database = await open_database(tmp_path / "mail.db", (NEXT,), steady=time.monotonic, patience=MOST)
                await made
            with pytest.raises(SchemaTooNew):
                await tables_made(client, (SCHEMA,), waits.set)
            await database.close()

    run(scene())
