"""What each process of a server runs: the plan child, a generation, its keepers and its workers.

`gatepost serve` is the supervisor (aio/supervise), which knows none of this; it starts `gatepost plan` and
`gatepost generation` with the same configuration file. A generation forks keepers and workers from a parent that
has loaded everything; with one worker it is that worker itself, and the keepers are threads.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Final

from gatepost.aio.capability import NoNetAdmin, keep_net_admin
from gatepost.aio.clock import SystemClock
from gatepost.aio.generation import Program, Ready, Slot, run_generation
from gatepost.aio.libnftables import Libnftables, NftablesError
from gatepost.aio.netlink import Netfilter
from gatepost.aio.plan import Plan, TcpPlan
from gatepost.aio.process import EventLines, die_with_parent, name_process
from gatepost.aio.supervise import main_argv
from gatepost.aio.worker import run as run_loop
from gatepost.app import Sockets, Worker
from gatepost.base.ports import Log
from gatepost.base.settings import BadSetting
from gatepost.blobs.known import KeyRefused, check_named
from gatepost.config import PORTS, Config, ConfigError, Kind, bound, load, located
from gatepost.databases import GATE_SCHEMAS, MAIL_SCHEMAS, Databases, gate_path, mail_path
from gatepost.db.client import KeeperClient, tables_made
from gatepost.db.door import Door
from gatepost.db.files import in_use
from gatepost.db.keeper import Keeper, keep, listen_at, socket_path
from gatepost.db.migrate import by_name
from gatepost.db.sqlite import SqliteDatabase, open_database
from gatepost.db.unit import Schema
from gatepost.db.writer import DatabaseInUse, Writer
from gatepost.gate.kernel.helper import KernelGate, Policy, watch
from gatepost.gate.kernel.rules import Ports
from gatepost.gate.kernel.settings import KernelMode
from gatepost.gate.table import BadEntry, TableFull
from gatepost.logs import configure
from gatepost.queue.atrest import keys_of
from gatepost.queue.verbs import take_over

KEEPERS: Final[Mapping[str, tuple[Callable[[Path], Path], tuple[Schema, ...], bool]]] = {
    "mail": (mail_path, MAIL_SCHEMAS, True),
    "gate": (gate_path, GATE_SCHEMAS, False),
}
TURN_S: Final = 0.02  # between two looks at whether the generation before has let a database go


def plan(config: Config) -> Plan:
    """Return what the supervisor is told of a configuration."""
    listeners = tuple(
        TcpPlan(
            name,
            host,
            port,
            each.kind is Kind.MX and not each.proxy,  # all clients of a balancer come from one source
        )
        for name, each in config.listeners.items()
        for at, address in enumerate(each.address)
        for host, port in bound(address, PORTS[each.kind], ("listen", name, "address", at))
    )
    return Plan(
        data_dir=str(config.data_dir.absolute()),
        workers=config.server.workers or max(1, len(os.sched_getaffinity(0))),
        user=config.server.user,
        listeners=listeners,
        keepers=tuple(KEEPERS),
        kernel=config.gate.kernel.mode is KernelMode.NFTABLES,
    )


def generation(file: Path) -> int:
    """Be a generation of the server; return the exit status."""
    config = load(file)
    check_keys(config, file)

    def worker(slot: Slot, sockets: Sockets, ready: Ready) -> None:
        log = _log(config, f"worker{slot.index}")
        main = _alone if slot.alone else _beside_keepers
        _Process(config, file, slot, sockets, ready, log).run(main)

    def keeper(name: str, number: int, ready: Ready) -> None:
        run_keeper(config, name, ready)

    def free() -> bool:
        return not any(in_use(path_of(config.data_dir)) for path_of, _, _ in KEEPERS.values())

    return run_generation(Program(worker=worker, keeper=keeper, free=free), EventLines())


def check_keys(config: Config, file: Path) -> None:
    """See that we can read the mail that waits, before anybody is let in; raises ConfigError."""
    try:
        check_named(keys_of(config.queue), mail_path(config.data_dir))
    except KeyRefused as wrong:
        refused = BadSetting(("queue", "encryption_key_file"), str(wrong))
        raise located(refused, file.read_text("utf-8"), file) from wrong
    except BadSetting as wrong:
        raise located(wrong, file.read_text("utf-8"), file) from wrong


def run_keeper(config: Config, name: str, ready: Ready) -> None:
    """Keep one database until SIGTERM.

    During an upgrade the keeper of the generation before still has the file: this one says that it is ready (the
    new workers are served by the old keeper) and takes over when that one has ended.
    """
    path_of, schemas, durable = KEEPERS[name]
    path = path_of(config.data_dir)
    ends: list[Callable[[], None]] = [lambda: os._exit(0)]
    signal.signal(signal.SIGTERM, lambda *_: ends[-1]())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told = False
    while True:
        try:
            writer = Writer(path, schemas, durable=durable, steady=time.monotonic)
            break
        except DatabaseInUse:
            if not told:
                ready()
                told = True
            time.sleep(TURN_S)

    def began(running: Keeper) -> None:
        ends.append(running.stop)
        if not told:
            ready()

    keep(lambda: writer, listen_at(socket_path(path)), began)


def kernel(file: Path) -> int:
    """Be the gate in the kernel until SIGTERM; return the exit status.

    The capability that it keeps is over this process and the child that does its work; both are the server's user.
    """
    supervisor = os.getppid()
    config = load(file)
    try:
        keep_net_admin(config.server.user)
        Libnftables()
    except (NoNetAdmin, NftablesError) as wrong:
        EventLines().error("kernel_gate_cannot_start", error=str(wrong), text="The workers' gate decides alone.")
        return 1
    die_with_parent(supervisor)
    log = _log(config, "kernel")  # only now: its file is the user's
    name_process("kernel watch")

    def again() -> None:
        argv = main_argv("kernel", "-c", str(file))
        os.execv(argv[0], argv)  # noqa: S606  (our own program)

    return watch(lambda: _KernelProcess(config, file, log).run(), again, log)


def kernel_policy(config: Config) -> Policy:
    """Return what the kernel is told of a configuration."""
    ports: dict[Kind, list[int]] = {}
    for name, each in config.listeners.items():
        for at, address in enumerate(each.address):
            port = bound(address, PORTS[each.kind], ("listen", name, "address", at))[0][1]
            if port and port != config.gate.kernel.port:
                ports.setdefault(each.kind, []).append(port)
    submission = (*ports.get(Kind.SUBMISSION, ()), *ports.get(Kind.SUBMISSIONS, ()))
    rated = tuple((kind.value, tuple(found)) for kind, found in ports.items() if kind.value in config.gate.rates)
    everything = tuple(port for found in ports.values() for port in found)
    return Policy(
        config.gate, config.gate.kernel, Ports(tuple(ports.get(Kind.MX, ())), submission, rated, everything)
    )


class _KernelProcess:
    """The process that holds CAP_NET_ADMIN: its signals, and its look into gate.db through the keeper."""

    def __init__(self, config: Config, file: Path, log: Log) -> None:
        self._config = config
        self._file = file
        self._log = log
        self._gate: KernelGate | None = None
        self._main: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Keep the kernel's ruleset until SIGTERM."""
        run_loop(self._serve, on_term=self._leave, on_hup=self._reload, log=self._log)

    async def _serve(self) -> None:
        path = gate_path(self._config.data_dir)
        client = KeeperClient(path, socket_path(path))
        self._main = asyncio.current_task()
        try:
            while True:
                with contextlib.suppress(OSError):  # the keepers start after us
                    await client.connect()
                    break
                await asyncio.sleep(TURN_S)
            await tables_made(client, GATE_SCHEMAS, lambda: None)
            with Netfilter() as packets:
                policy = kernel_policy(self._config)
                self._gate = KernelGate(policy, client, packets, Libnftables(), SystemClock(), self._log)
                try:
                    await self._gate.run()
                finally:
                    self._gate.end()
        except asyncio.CancelledError:
            self._log.info("stopped", pid=os.getpid())
        finally:
            await client.close()

    def _leave(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _reload(self) -> None:
        try:
            config = load(self._file)
            if self._gate is not None:
                self._gate.renew(kernel_policy(config))
        except (ConfigError, BadSetting, ValueError) as wrong:
            self._log.error("reload_refused", error=str(wrong), text="The old configuration stays in force.")


class _Process:
    """One worker process: its signals, its readiness, and a main that opens the databases."""

    def __init__(self, config: Config, file: Path, slot: Slot, sockets: Sockets, ready: Ready, log: Log) -> None:
        self.config = config
        self.slot = slot
        self.log = log
        self._file = file
        self._sockets = sockets
        self._tell_ready: Ready | None = ready
        self._worker: Worker | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False

    def run(self, main: Callable[["_Process"], Coroutine[object, object, None]]) -> None:
        """Serve until SIGTERM."""
        run_loop(lambda: main(self), on_term=self._leave, on_hup=lambda: self._begin(self._reload()), log=self.log)

    def ready(self) -> None:
        """Tell the parent that we serve, once; while tables are still to be made clients wait in the backlog."""
        tell, self._tell_ready = self._tell_ready, None
        if tell is not None:
            tell()

    async def serve(self, databases: Databases) -> None:
        """Serve with open databases."""
        if self.slot.index == 0 and self.slot.generation <= 1:
            await take_over(databases.mail, SystemClock().now())
        worker = Worker(self.config, databases, self.log, slot=self.slot.index, mint=self.slot.mint)
        await worker.start(self._sockets)
        self._worker = worker
        self.ready()
        self.log.info("ready", pid=os.getpid())
        if not self._leaving:
            await worker.run()
        self.log.info("stopped", pid=os.getpid())

    def _leave(self) -> None:
        self._leaving = True
        if self._worker is not None:
            self._begin(self._worker.drain())

    async def _reload(self) -> None:
        try:
            config = await asyncio.to_thread(load, self._file)
            if self._worker is not None:
                await self._worker.reload(config)
        except (ConfigError, BadSetting, BadEntry, TableFull, OSError, ValueError) as wrong:
            self.log.error("reload_refused", error=str(wrong), text="The old configuration stays in force.")

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _beside_keepers(process: _Process) -> None:
    """Be a worker beside the keepers' processes: theirs, or in an upgrade those of the generation before."""
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, KeeperClient] = {}
        for name, (path_of, _, _) in KEEPERS.items():
            path = path_of(process.config.data_dir)
            client = clients[name] = KeeperClient(path, socket_path(path))
            await client.connect()
            stack.push_async_callback(client.close)
        for name, (_, schemas, _) in KEEPERS.items():
            await tables_made(clients[name], schemas, process.ready)
        await process.serve(Databases(clients["mail"], clients["gate"]))


async def _alone(process: _Process) -> None:
    """Be the only worker: the keepers are threads, with a door for commands."""
    async with contextlib.AsyncExitStack() as stack:
        opened: dict[str, SqliteDatabase] = {}
        for name, (path_of, schemas, durable) in KEEPERS.items():
            path = path_of(process.config.data_dir)
            database = await open_database(path, schemas, steady=time.monotonic, durable=durable)
            stack.push_async_callback(database.close)
            door = Door(database, by_name(schemas))
            await door.open(listen_at(socket_path(path)))
            stack.push_async_callback(door.close)
            opened[name] = database
        await process.serve(Databases(opened["mail"], opened["gate"]))


def _log(config: Config, name: str) -> Log:
    return configure(config.data_dir, form=config.server.log, level=config.server.log_level, worker=name)
