"""A whole server with the gate in a real kernel: what operators and limits change is there within a second."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from gatepost.aio.netlink import Netfilter, NetlinkError
from gatepost.gate.decide import BRUTEFORCE, NOSPAMD
from gatepost.gate.kernel.rules import TABLE, set_name
from gatepost.gate.prefix import number_of
from tests.process.namespaces import ABUSER, OTHER, UNKNOWN, WHITE, Cable, Dropped, Refused, cable, in_namespace
from tests.process.served import Served, until

pytestmark = [pytest.mark.process, pytest.mark.peer("iproute2"), pytest.mark.peer("nftables")]

SETTINGS = """
[gate.kernel]
mode = "nftables"
[gate]
mode = "spamd"
banner = ""
[gate.bans]
ban_time = 6
[gate.rates.imap]
connections = 3
"""
LISTENERS = {"mx": ("mx", 25), "gate": ("mx", 8025), "imap": ("imap", 143)}


@dataclass
class Filtering(Served):
    """A server on a machine of its own, and what its kernel holds."""

    wire: Cable | None = None
    packets: Netfilter | None = None

    def __enter__(self) -> Self:
        assert self.wire is not None
        self.packets = self.wire.on_server(Netfilter)
        self.write_config(self.settings)
        try:
            self.start()
            until(lambda: len(self.events("kernel_gate_ready")) > 0, 20, self.last_words)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.packets is not None:
            self.packets.close()
        super().__exit__()

    def write_config(self, settings: str) -> None:
        """Write gatepost.toml with `settings` at its end."""
        listeners = "".join(
            f'[listen.{name}]\nkind = "{kind}"\naddress = ["0.0.0.0:{port}", "[::]:{port}"]\n'
            for name, (kind, port) in LISTENERS.items()
        )
        server = f'hostname = "mx.here.example"\ndata_dir = "{self.folder}/data"\nworkers = {self.workers}\n'
        self.config.write_text(f"[server]\n{server}{listeners}{settings}")

    def start(self) -> None:
        """Start it on its machine and wait until it serves."""
        assert self.wire is not None
        words = [sys.executable, "-m", "gatepost", "serve", "-c", str(self.config)]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(in_namespace(self.wire.server, *words), stdout=log, stderr=log)
        until(self.serves, 40, self.last_words)

    def holds(self, table: str, ip: str) -> bool:
        """Tell whether the kernel has an address in a table's set of hosts."""
        assert self.packets is not None
        try:
            found = self.packets.elements(TABLE, set_name(table, 4, hosts=True))
        except NetlinkError:  # the table is not there
            return False
        return any(each.key == number_of(ip)[1] for each in found)

    def seconds(self, holds: Callable[[], bool]) -> float:
        """Return how long it takes until something holds."""
        began = time.monotonic()
        until(holds, 10, self.last_words)
        return time.monotonic() - began

    def redirected(self) -> int:
        """Return how many connections of unknown sources the kernel redirected."""
        assert self.wire is not None
        words = in_namespace(self.wire.server, sys.executable, "-m", "gatepost", "gate", "kernel", "show")
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        (line,) = [each for each in shown.splitlines() if each.endswith('comment "rdr-to spamd from any to smtp"')]
        return int(line.partition("counter packets ")[2].split()[0])

    def greeting(self, source: str, port: int = 25) -> bytes:
        """Return the first octet or octets that a client is told: of the tarpit it is one, of the server a line."""
        assert self.wire is not None
        client = self.wire.dial(source, port)
        try:
            return client.recv(512)
        finally:
            client.close()


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Filtering]:
    """A server with the gate in its kernel."""
    with ExitStack() as stack:
        wire = stack.enter_context(cable())
        made = stack.enter_context(Filtering(tmp_path, request.param, SETTINGS, wire=wire))
        yield made


def capabilities(pid: int) -> int:
    """Return a process's permitted capabilities."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:")), 16)


@pytest.mark.row("PF-08", "PF-12", "PF-13", "GR-08")
def test_tables_limits_and_the_death_of_the_helper_with_a_whole_server(server: Filtering) -> None:
    wire = server.wire
    assert wire is not None
    # Who keeps the ruleset may do nothing else, though root started it.
    assert [capabilities(pid) for pid in server.pids("kernel ")] == [1 << 12] * 2

    # An unknown source is held by the gate; one that an operator trusts reaches the mail server within a second.
    assert server.greeting(UNKNOWN) == b"2"
    assert server.redirected() == 1
    server.command("tables", "add", NOSPAMD, WHITE)
    assert server.seconds(lambda: server.holds(NOSPAMD, WHITE)) < 1
    assert server.greeting(WHITE).startswith(b"220 mx.here.example")
    assert server.redirected() == 1
    server.command("tables", "del", NOSPAMD, WHITE)
    assert server.seconds(lambda: not server.holds(NOSPAMD, WHITE)) < 1
    assert server.greeting(WHITE) == b"2"
    server.command("tables", "add", NOSPAMD, WHITE)

    # Who has more connections than its limit is cut off everywhere until its time is over.
    readers: list[socket.socket] = []
    while not server.holds(BRUTEFORCE, ABUSER):  # each worker counts what it has
        assert len(readers) < 8, server.last_words()
        began = time.monotonic()
        greeted = b""
        with suppress(Dropped, Refused, ConnectionResetError):
            readers.append(wire.dial(ABUSER, 143))
            greeted = readers[-1].recv(512)
        if not greeted:
            assert server.seconds(lambda: server.holds(BRUTEFORCE, ABUSER)) < 1
    assert len(readers) >= 3
    assert all(_over(reader) for reader in readers)
    for port in (25, 143, 8025):
        with pytest.raises(Dropped):
            wire.dial(ABUSER, port)
    assert server.greeting(OTHER, 143).startswith(b"* OK")
    until(lambda: not server.holds(BRUTEFORCE, ABUSER), 15, server.last_words)
    assert time.monotonic() - began > 4

    # The helper dies: what it loaded stays, its watch starts it anew; both die: the workers' gate decides.
    watch, child = sorted(server.pids("kernel "))
    _kill(child)
    assert server.greeting(WHITE).startswith(b"220 ")
    until(lambda: len(server.events("kernel_gate_ready")) == 2, 20, server.last_words)
    server.command("tables", "add", NOSPAMD, OTHER)
    assert server.seconds(lambda: server.holds(NOSPAMD, OTHER)) < 1
    _kill(watch)
    until(lambda: not server.pids("kernel "), 10, server.last_words)
    assert server.greeting(WHITE).startswith(b"220 ")
    assert server.greeting(UNKNOWN) == b"2"


@pytest.mark.row("PF-13")
@pytest.mark.parametrize("server", [2], indirect=True, ids=["2 workers"])
def test_the_ruleset_outlives_an_upgrade_is_loaded_again_and_goes_with_the_server(server: Filtering) -> None:
    wire, packets = server.wire, server.packets
    assert wire is not None
    assert packets is not None
    assert server.process is not None
    handle = packets.table(TABLE)
    server.command("tables", "add", NOSPAMD, WHITE)
    until(lambda: server.holds(NOSPAMD, WHITE), 10, server.last_words)
    (before,) = server.pids("kernel gate")
    server.command("upgrade")
    until(lambda: len(server.events("kernel_gate_ready")) == 2, 40, server.last_words)
    assert packets.table(TABLE) == handle
    assert server.pids("kernel gate") != [before]
    assert server.greeting(WHITE).startswith(b"220 ")
    assert "table inet gatepost {" in server.command("gate", "kernel", "check")
    # Other ports, by a reload.
    server.write_config(SETTINGS.replace('"nftables"', '"nftables"\nblock_rest = true'))
    server.command("reload")
    until(lambda: len(server.events("kernel_gate_ready")) == 3, 20, server.last_words)
    assert wire.outcome(WHITE, 4711) == "refused"
    # Somebody flushes the ruleset.
    subprocess.run(
        in_namespace(wire.server, sys.executable, "-m", "gatepost", "gate", "kernel", "flush"),
        check=True,
        capture_output=True,
    )
    until(lambda: server.holds(NOSPAMD, WHITE), 10, server.last_words)
    server.process.terminate()
    assert server.process.wait(40) == 0
    assert packets.table(TABLE) is None


def _over(client: socket.socket) -> bool:
    """Tell whether a connection is closed or reset."""
    try:
        return client.recv(512) == b""
    except ConnectionResetError:
        return True


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
