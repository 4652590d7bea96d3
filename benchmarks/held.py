"""What a held connection costs a worker of `gatepost serve`, and what the others notice of 10,000 of them.

    python benchmarks/held.py [--connections 10000] [--json]       keeps results/held.json

One worker, greylist on, one letter a second to every held client, as in earnest. The clients are another process,
from many loopback sources, at most four each. Memory is the worker's RSS (/proc/PID/smaps_rollup) before the first
and after the last connection, over their number. Meanwhile a sender on the white list connects again and again:
the time from connect to the whole greeting line. The same is measured before, with nobody held.
"""

import argparse
import json
import os
import resource
import selectors
import signal
import socket
import statistics
import time
from pathlib import Path
from typing import Final

import machine
from accept import cpu
from served import Served

from gatepost.aio.process import raise_descriptor_limit
from gatepost.welcome.trial import KNOWN

PER_SOURCE: Final = 4
TARGET_OCTETS: Final = 4096
TARGET_P99_MS: Final = 100.0


def memory(pid: int) -> int:
    """Return the RSS of a process in octets."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))


def open_held(port: int, count: int) -> list[socket.socket]:
    """Open connections from sources of their own; nothing is said."""
    clients = []
    for at in range(count):
        number = at // PER_SOURCE
        client = socket.socket()
        client.bind((f"127.{10 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}", 0))
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        clients.append(client)
    return clients


def letters(clients: list[socket.socket], seconds: float) -> tuple[int, int]:
    """Read for a time; return the letters that came and the clients that were closed."""
    came = closed = 0
    ends = time.monotonic() + seconds
    with selectors.EpollSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while (left := ends - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                octets = key.fileobj.recv(4096)  # type: ignore[union-attr]  # we registered sockets
                came += len(octets)
                if not octets:
                    closed += 1
                    selector.unregister(key.fileobj)
    return came, closed


def kernel(pid: int) -> float:
    """Return the seconds that a process was busy in the kernel."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[12]) / os.sysconf("SC_CLK_TCK")


def bare_write(letters: int = 40_000, clients: int = 2_000) -> float:
    """Return the processor time in us of one send(2) of one octet over loopback, which no server can go below.

    It has the receiver's half in it: loopback does that in the sender's call.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        theirs = open_held(listener.getsockname()[1], clients)
        ours = [listener.accept()[0] for _ in theirs]
    began = time.process_time()
    for _ in range(letters // clients):
        for each in ours:
            each.send(b"x")
    spent = time.process_time() - began
    for each in (*theirs, *ours):
        each.close()
    return spent / letters * 1e6


def holder(port: int, count: int, told: socket.socket) -> None:
    """Be the process of the held clients: open them, then answer each request with letters and closed ones."""
    raise_descriptor_limit()
    began = time.perf_counter()
    clients = open_held(port, count)
    told.sendall(json.dumps({"opened_in_s": time.perf_counter() - began}).encode())
    while asked := told.recv(100):
        told.sendall(json.dumps(letters(clients, float(asked))).encode())


def greetings(port: int, count: int) -> list[float]:
    """Return how long a white sender waits for the greeting, in ms, `count` times, one after the other."""
    times = []
    for _ in range(count):
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 30, (KNOWN, 0)) as client:
            said = b""
            while not said.endswith(b"\r\n"):
                octets = client.recv(500)
                if not octets:
                    raise ConnectionError(f"the white sender was closed after {said!r}")
                said += octets
            times.append((time.perf_counter() - began) * 1000)
            client.sendall(b"QUIT\r\n")
        time.sleep(0.02)
    return times


def waits(times: list[float]) -> dict[str, float]:
    """Return median, p99 and the longest."""
    ordered = sorted(times)
    p99 = ordered[max(0, int(len(ordered) * 0.99) - 1)]
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(ordered[-1], 2),
    }


def hold(server: Served, options: argparse.Namespace) -> machine.Figures:
    """Measure with nobody held, then with all."""
    worker, count = server.worker(), options.connections
    bare = bare_write()
    alone = waits(greetings(server.port, options.greetings))
    ours, theirs = socket.socketpair()
    octets, used = memory(worker), cpu([worker])
    child = os.fork()
    if child == 0:
        ours.close()
        try:
            holder(server.port, count, theirs)
        finally:
            os._exit(1)
    theirs.close()
    try:
        opened = json.loads(ours.recv(1000))["opened_in_s"]
        time.sleep(3)
        taking, each = cpu([worker]) - used, (memory(worker) - octets) / count
        ours.sendall(b"3")  # what came while they were opened does not count
        ours.recv(1000)
        used, began, in_kernel = cpu([worker]), time.monotonic(), kernel(worker)
        ours.sendall(b"%g" % options.seconds)
        came, closed = json.loads(ours.recv(1000))
        lasted = time.monotonic() - began
        pace, in_kernel = (cpu([worker]) - used) / lasted, (kernel(worker) - in_kernel) / lasted
        ours.sendall(b"1")
        ours.recv(1000)
        beside = waits(greetings(server.port, options.greetings))
        later = (memory(worker) - octets) / count
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return {
        "held": count - closed,
        "asked_for": count,
        "rss_octets_each": round(each),
        "rss_octets_each_later": round(later),
        "opened_per_s": round(count / opened),
        "cpu_us_to_take_one": round(taking / count * 1e6),
        "letters_per_s_each": round(came / count / options.seconds, 3),
        "share_of_a_core": round(pace, 3),
        "of_it_in_the_kernel": round(in_kernel, 3),
        "letter_us": round(pace * lasted / came * 1e6, 2),
        "bare_write_us": round(bare, 2),
        "white_greeting_alone": alone,
        "white_greeting_beside": beside,
        "targets_met": {
            f"all {count} held": closed == 0 and came > 0.8 * count * options.seconds,
            f"at most {TARGET_OCTETS} octets RSS each": max(each, later) <= TARGET_OCTETS,
            f"white greeting under {TARGET_P99_MS:g} ms at p99": beside["p99_ms"] < TARGET_P99_MS,
        },
    }


def main() -> None:
    """Start a server, measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--greetings", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the letters are counted")
    parser.add_argument("--json", action="store_true", help="keep the result in results/held.json")
    options = parser.parse_args()
    where = machine.described()
    limit = raise_descriptor_limit()
    if limit < options.connections + 300:
        parser.error(f"the descriptor limit is {limit}: raise it (ulimit -Hn) or ask for fewer --connections")
    gate = {
        "exempt": "[]",
        "mode": '"spamd"',
        "stutter": '"1s"',
        "grey_stutter": '"90s"',
        "connections": str(options.connections + 100),
        "source_connections": str(PER_SOURCE),
    }
    server = Served(1, gate)
    try:
        figures = hold(server, options) | {"descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}
    finally:
        server.stop()
    print(json.dumps(figures, indent=1))
    if options.json:
        machine.keep("held", figures, where)


if __name__ == "__main__":
    main()
