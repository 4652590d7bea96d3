"""The gate: tables, first contacts, held connections. `benchmarks/gate.py [tables|prefixes|offers|friendly|...]`.

Figures mean something beside each other, in one run. `held` needs 2 x the connections in descriptors.
"""

import asyncio
import gc
import os
import random
import resource
import socket
import sys
import tempfile
import time
from array import array
from dataclasses import replace
from pathlib import Path

import uvloop

from gatepost.aio.clock import SystemClock
from gatepost.aio.drive import Wire
from gatepost.aio.listen import Limits, Listener
from gatepost.base.address import Address
from gatepost.base.envelope import Client
from gatepost.base.units import Seconds
from gatepost.codec.spamd.dialogue import Offer
from gatepost.db.sqlite import open_database
from gatepost.gate.decide import Verdict
from gatepost.gate.friendly import Say
from gatepost.gate.gate import Gate
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import Prefix, number_of
from gatepost.gate.settings import GateSettings, Mode
from gatepost.gate.sql import COUNT, SCHEMA
from gatepost.gate.table import Entry, Table

CLOCK = SystemClock()
SETTINGS = GateSettings(mode=Mode.SPAMD, exempt=(), source_connections=0, verbose=False, net_rows=10_000_000)
DIALOGUE = b"EHLO mail.example\r\nMAIL FROM:<%d@example.net>\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n"


class Silent:
    """A log that says nothing."""

    def _nothing(self, event: str, **fields: object) -> None:
        pass

    debug = info = warning = error = exception = _nothing


def rss() -> int:
    """Return the resident octets of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def make(settings: GateSettings, database: object) -> Gate:
    """Return a gate."""
    return Gate(
        settings,
        database,  # type: ignore[arg-type]  # held connections write nothing
        hostname="mx.example.org",
        clock=CLOCK,
        log=Silent(),
        cut=lambda _: None,
        scans=False,
    )


def tables() -> None:
    """Memory and lookups of 400,000 entries: hosts only, and all lengths of a full BGP feed."""
    dice = random.Random(1)
    for title, lengths in (("hosts", (32,)), ("17 lengths", tuple(range(16, 33)))):
        before = rss()
        now = CLOCK.now()
        numbers = ((dice.choice(lengths), dice.getrandbits(32)) for _ in range(400_000))
        began = time.perf_counter()
        table = Table("t", (Entry(Prefix(4, n, x >> (32 - n) << (32 - n)), since=now) for n, x in numbers))
        filled = time.perf_counter() - began
        ips = [socket.inet_ntoa(dice.randbytes(4)) for _ in range(200_000)]
        began = time.perf_counter()
        for ip in ips:
            table.holds(*number_of(ip))
        rate = len(ips) / (time.perf_counter() - began)
        size = rss() - before
        print(
            f"{title}: {len(table):,} in {filled:.2f} s, {size / len(table):.0f} octets each, {rate:,.0f} lookups/s"
        )


async def prefixes(count: int = 1_000_000) -> None:
    """A million prefixes of a feed: memory, decisions, and what a swap costs while the loop goes on."""
    with tempfile.TemporaryDirectory() as folder:
        database = await open_database(Path(folder) / "gate.db", (SCHEMA,), steady=CLOCK.steady, durable=False)
        gate = make(replace(SETTINGS, tables_max=2 * count), database)
        await gate.start()
        before, lags, done = rss(), [0.0], asyncio.Event()

        async def tick() -> None:
            while not done.is_set():
                asked = time.perf_counter()
                await asyncio.sleep(0.001)
                lags.append(time.perf_counter() - asked - 0.001)

        ticking = asyncio.get_running_loop().create_task(tick())
        for turn in range(2):
            lags.clear()
            began = time.perf_counter()
            networks = await asyncio.to_thread(_feed, count, turn)
            built = time.perf_counter() - began
            await gate.publish("bgp_spamd", "bgp", networks)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(
                f"prefixes: {len(networks):,} built in {built:.2f} s off the loop, published in"
                f" {time.perf_counter() - began - built:.2f} s, the loop stood still for {max(lags) * 1e3:.1f} ms;"
                f" {(rss() - before) / 1e6:.0f} MB more, at most {peak / 1e6:.0f} MB in all"
            )
            del networks
        done.set()
        await ticking
        dice = random.Random(3)
        ips = [socket.inet_ntoa(dice.randbytes(4)) for _ in range(300_000)]
        began, cpu = time.perf_counter(), time.process_time()
        for ip in ips:
            gate.decide(ip, "mx")
        took, spent = time.perf_counter() - began, time.process_time() - cpu
        print(f"prefixes: {len(ips) / took:,.0f} decisions/s, {len(ips) / spent:,.0f} a second of CPU")
        await database.close()


def _feed(count: int, seed: int) -> Networks:
    dice = random.Random(seed)
    four = array("Q")
    for _ in range(count):
        length = dice.choice((22, 24, 32, 32, 32))
        four.append(dice.getrandbits(32) >> 32 - length << 32 - length + 8 | length)
    return Networks.packed(four, ())


async def offers(count: int = 50_000) -> None:
    """Tuples through the gate into the database, without the network."""
    with tempfile.TemporaryDirectory() as folder:
        database = await open_database(Path(folder) / "gate.db", (SCHEMA,), steady=CLOCK.steady, durable=False)
        gate = make(SETTINGS, database)
        await gate.start()
        task = asyncio.get_running_loop().create_task(gate.run())
        began = time.perf_counter()
        for at in range(count):
            ip = f"{10 + (at >> 16)}.{at >> 8 & 255}.{at & 255}.1"
            gate.decide(ip, "mx")
            gate._remember(ip, "192.0.2.1", Offer(b"mail", b"<%d@b>" % at, b"<c@d>"), CLOCK.now())
            while gate.counts().waiting > 15_000:
                await asyncio.sleep(0.005)
        await gate.flush()
        took = time.perf_counter() - began
        rows = (await database.read(COUNT, {}))[0][0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()
    print(f"offers: {count / took:,.0f}/s, {rows:,} rows")


async def friendly(count: int = 30_000) -> None:
    """First contacts of friendly mode: decided, looked up, remembered; SPF is not asked, networks are senders."""
    with tempfile.TemporaryDirectory() as folder:
        database = await open_database(Path(folder) / "gate.db", (SCHEMA,), steady=CLOCK.steady, durable=False)
        gate = make(replace(SETTINGS, mode=Mode.FRIENDLY), database)
        await gate.start()
        task = asyncio.get_running_loop().create_task(gate.run())
        recipient = Address("ann", "example.org")
        began, cpu = time.perf_counter(), time.process_time()
        for at in range(count):
            ip = f"{10 + (at >> 16)}.{at >> 8 & 255}.{at & 255}.1"
            client = Client(ip=ip, port=1, local_ip="192.0.2.1", local_port=25, listener="mx", helo="mail")
            assert gate.decide(ip, "mx").verdict is Verdict.GREY
            standing = await gate.recipient(client, Address(f"u{at}", "b"), recipient, (1,), CLOCK.now())
            assert standing.say is Say.DEFER
            while gate.counts().waiting > 15_000:
                await asyncio.sleep(0.005)
        await gate.flush()
        took, spent = time.perf_counter() - began, time.process_time() - cpu
        rows = (await database.read(COUNT, {}))[0][0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()
    print(f"friendly: {count / took:,.0f}/s, {spent / count * 1e6:.0f} us of CPU a contact, {rows:,} rows")


def _serve(settings: GateSettings, ready: "socket.socket", port: socket.socket, backlog: str) -> None:
    """A server process: greylists everybody; answers on `ready` with its octets and CPU time."""

    async def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            database = await open_database(Path(folder) / "gate.db", (SCHEMA,), steady=CLOCK.steady, durable=False)
            gate = make(settings, database)
            await gate.start()
            task = asyncio.get_running_loop().create_task(gate.run())

            def accept(wire: Wire) -> None:
                gate.hold(wire, gate.decide(wire.peer_ip, "mx"))

            listener = Listener(port, accept, limits=Limits(0, 0, 0), name="mx", log=Silent())
            listener.start()
            loop = asyncio.get_running_loop()
            ready.setblocking(False)
            while await loop.sock_recv(ready, 1):
                await gate.flush()
                rows = (await database.read(COUNT, {}))[0][0]
                usage = resource.getrusage(resource.RUSAGE_SELF)
                told = f"{rss()} {usage.ru_utime + usage.ru_stime} {gate.counts().held} {rows}\n"
                await loop.sock_sendall(ready, told.encode())
            await listener.drain(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await database.close()

    uvloop.run(work())


def served(settings: GateSettings) -> tuple[socket.socket, int, int]:
    """Fork a server; return the socket to ask it by, its port and its pid."""
    ours, theirs = socket.socketpair()
    port = socket.socket()
    port.bind(("127.0.0.1", 0))
    port.listen(4096)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _serve(settings, theirs, port, "")
        os._exit(0)
    theirs.close()
    number = port.getsockname()[1]
    port.close()
    return ours, number, pid


def ask(ours: socket.socket) -> tuple[int, float, int, int]:
    """Return the server's octets, CPU seconds, held connections and rows."""
    ours.send(b"?")
    octets, cpu, held, rows = ours.recv(200).split()
    return int(octets), float(cpu), int(held), int(rows)


async def contacts(count: int = 10_000, at_once: int = 50) -> None:
    """First contacts over TCP, from SYN to 451, a row written for each; client and server share the machine."""
    ours, port, pid = served(replace(SETTINGS, stutter=Seconds(0)))
    ask(ours)
    left = iter(range(count))

    async def client() -> None:
        for at in left:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await reader.readline()
            writer.write(DIALOGUE % at)
            await reader.read()
            writer.close()

    before, began = ask(ours)[1], time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    took = time.perf_counter() - began
    _, after, _, rows = ask(ours)
    print(
        f"contacts: {count / took:,.0f}/s with the client on this machine; server CPU"
        f" {(after - before) / count * 1e6:.0f} us a contact ="
        f" {count / (after - before):,.0f}/s a core; {rows:,} rows"
    )
    ours.close()
    os.waitpid(pid, 0)


def held(count: int = 10_000, length: float = 15.0) -> None:
    """Held connections at a letter a second: memory of each, CPU, and the pace."""
    ours, port, pid = served(replace(SETTINGS, grey_stutter=Seconds(90), connections=count + 100))
    before = ask(ours)[0]
    clients = []
    for _ in range(count):
        client = socket.socket()
        client.connect(("127.0.0.1", port))
        clients.append(client)
    time.sleep(2)
    octets, cpu, open_now, _ = ask(ours)
    began = time.perf_counter()
    first = sum(_pending(client) for client in clients)
    time.sleep(length)
    rest = sum(_pending(client) for client in clients)
    took = time.perf_counter() - began
    spent = ask(ours)[1] - cpu
    print(
        f"held: {open_now:,}, {(octets - before) / count:,.0f} octets each,"
        f" {rest / count / took:.2f} letters/s each, {spent / took:.1%} of a core (first {first:,} letters)"
    )
    for client in clients:
        client.close()
    ours.close()
    os.waitpid(pid, 0)


def _pending(client: socket.socket) -> int:
    try:
        return len(client.recv(4096, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return 0


def main() -> None:
    """Run what is asked for, or all."""
    sys.setswitchinterval(0.0005)  # as workers have it
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    works = {
        "tables": tables,
        "prefixes": lambda: uvloop.run(prefixes()),
        "offers": lambda: uvloop.run(offers()),
        "friendly": lambda: uvloop.run(friendly()),
        "contacts": lambda: uvloop.run(contacts()),
        "held": lambda: held(min(10_000, hard - 100)),
    }
    for name in sys.argv[1:] or works:
        works[name]()


if __name__ == "__main__":
    main()
