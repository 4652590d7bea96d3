"""What each process of a server runs: a keeper, a worker, or, with one worker, everything in one.

The supervisor (aio/supervise) starts these with their sockets; they stop at SIGTERM and read their configuration
anew at SIGHUP.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import uvloop

from gatepost.app import Sockets, Worker
from gatepost.base.ports import Log
from gatepost.base.settings import BadSetting
from gatepost.config import PORTS, Config, ConfigError, Kind, load, split_address
from gatepost.databases import GATE_SCHEMAS, MAIL_SCHEMAS, Databases, gate_path, mail_path
from gatepost.db.client import KeeperClient
from gatepost.db.door import Door
from gatepost.db.keeper import Keeper, keep, listen_at, socket_path
from gatepost.db.migrate import by_name
from gatepost.db.sqlite import SqliteDatabase, open_database
from gatepost.db.unit import Schema
from gatepost.db.writer import Writer
from gatepost.gate.table import BadEntry, TableFull
from gatepost.logs import configure
from gatepost.queue.verbs import take_over

SWITCH_S: Final = 0.0005
KEEPERS: Final[Mapping[str, tuple[Callable[[Path], Path], tuple[Schema, ...], bool]]] = {
    "mail": (mail_path, MAIL_SCHEMAS, True),
    "gate": (gate_path, GATE_SCHEMAS, False),
}


def run_keeper(config: Config, name: str, ready: Callable[[], None]) -> None:
    """Keep one database until SIGTERM."""
    path_of, schemas, durable = KEEPERS[name]
    path = path_of(config.data_dir)
    listener = listen_at(socket_path(path))

    def began(keeper: Keeper) -> None:
        signal.signal(signal.SIGTERM, lambda *_: keeper.stop())
        ready()

    keep(lambda: Writer(path, schemas, durable=durable, steady=time.monotonic), listener, began)


def run_worker(config: Config, file: Path, slot: int, sockets: Sockets, ready: Callable[[], None]) -> None:
    """Be a worker beside keepers until SIGTERM."""
    log = configure(config.data_dir, form=config.server.log, level=config.server.log_level, worker=f"worker{slot}")

    async def main() -> None:
        mail = KeeperClient(mail_path(config.data_dir), socket_path(mail_path(config.data_dir)))
        gate = KeeperClient(gate_path(config.data_dir), socket_path(gate_path(config.data_dir)))
        await mail.connect()
        await gate.connect()
        try:
            worker = Worker(config, Databases(mail, gate), log, slot=slot)
            await _serve(worker, file, sockets, ready, log)
        finally:
            await gate.close()
            await mail.close()

    _run(main)


def run_alone(config: Config, file: Path, sockets: Sockets, ready: Callable[[], None]) -> None:
    """Be the whole server in one process until SIGTERM: the keepers are threads."""
    log = configure(config.data_dir, form=config.server.log, level=config.server.log_level, worker="gatepost")

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            opened: dict[str, SqliteDatabase] = {}
            for name, (path_of, schemas, durable) in KEEPERS.items():
                path = path_of(config.data_dir)
                database = await open_database(path, schemas, steady=time.monotonic, durable=durable)
                stack.push_async_callback(database.close)
                door = Door(database, by_name(schemas))
                await door.open(listen_at(socket_path(path)))
                stack.callback(door.close)
                opened[name] = database
            databases = Databases(opened["mail"], opened["gate"])
            await take_over(databases.mail, time.time_ns() // 1000)  # type: ignore[arg-type]  # an Instant
            worker = Worker(config, databases, log, slot=0)
            await _serve(worker, file, sockets, ready, log)

    _run(main)


def bind(config: Config) -> dict[str, list[socket.socket]]:
    """Open every listener's sockets in this process; raises OSError with the address in its text."""
    bound: dict[str, list[socket.socket]] = {}
    for name, listener in config.listeners.items():
        for at, address in enumerate(listener.address):
            host, port = split_address(address, PORTS[listener.kind], ("listen", name, "address", at))
            bound.setdefault(name, []).append(_bound(host, port))
    return bound


def addresses(config: Config) -> dict[str, list[tuple[str, int]]]:
    """Return where each listener listens, by its name."""
    return {
        name: [
            split_address(each, PORTS[listener.kind], ("listen", name, "address", at))
            for at, each in enumerate(listener.address)
        ]
        for name, listener in config.listeners.items()
    }


def steered(config: Config) -> Sequence[str]:
    """Return the listeners whose connections go to a worker by their source."""
    return [name for name, listener in config.listeners.items() if listener.kind is Kind.MX]


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
    sock.listen(1024)
    return sock


async def _serve(worker: Worker, file: Path, sockets: Sockets, ready: Callable[[], None], log: Log) -> None:
    loop = asyncio.get_running_loop()
    await worker.start(sockets)
    tasks: set[asyncio.Task[None]] = set()

    def begin(work: Callable[[], Awaitable[None]]) -> None:
        task = loop.create_task(_guarded(work, log))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def reload() -> None:
        try:
            config = await asyncio.to_thread(load, file)
            await worker.reload(config)
        except (ConfigError, BadSetting, BadEntry, TableFull, OSError, ValueError) as wrong:
            log.error("reload_refused", error=str(wrong), text="The old configuration stays in force.")

    loop.add_signal_handler(signal.SIGTERM, lambda: begin(worker.drain))
    loop.add_signal_handler(signal.SIGINT, lambda: begin(worker.drain))
    loop.add_signal_handler(signal.SIGHUP, lambda: begin(reload))
    ready()
    log.info("ready", pid=os.getpid())
    await worker.run()
    log.info("stopped", pid=os.getpid())


async def _guarded(work: Callable[[], Awaitable[None]], log: Log) -> None:
    try:
        await work()
    except Exception:
        log.exception("signal_failed")


def _run(main: Callable[[], Awaitable[None]]) -> None:
    sys.setswitchinterval(SWITCH_S)
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())  # type: ignore[arg-type]  # every main here is a coroutine
