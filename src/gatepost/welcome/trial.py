"""`gatepost try`: a whole server on loopback in a temporary folder, as real processes, and the play before it.

What is made, in this order: a folder, a CA and a certificate, domains with DKIM keys and accounts in the database,
a DNS zone that publishes them, a sink for the rest of the world, the server itself (`gatepost serve`) and, unless
it is only held, the play. Ending it removes what it made, unless --data-dir was given.
"""

import asyncio
import json
import os
import re
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from gatepost.accounts import verbs as accounts
from gatepost.accounts.password import Hasher
from gatepost.accounts.settings import AccountSettings
from gatepost.aio.clock import SystemClock
from gatepost.aio.resolve import Resolver
from gatepost.base.ids import Minter
from gatepost.base.verdict import Result
from gatepost.codec.mail.header import HeaderBlock
from gatepost.db.unit import Unit
from gatepost.gate import verbs as gate
from gatepost.judge import verbs as judge
from gatepost.judge.dkim import verify
from gatepost.judge.judge import raw_fields
from gatepost.judge.keys import KeyFile
from gatepost.judge.names import ResolvedNames
from gatepost.store.verbs import create_default_mailboxes_steps
from gatepost.welcome.ca import issue
from gatepost.welcome.play import KNOWN, LISTED, TRAP, NotAsPlanned, Play, Stage
from gatepost.welcome.sink import Sink
from gatepost.welcome.zone import Zone, ZoneServer

HOST: Final = "127.0.0.1"
REMOTE_HOST: Final = "127.0.0.2"  # another address of this machine: mail never goes to our own
DOMAINS: Final = ("home.example", "gate.example")
REMOTE: Final = "friends.example"
HOSTNAME: Final = "mx1.home.example"
PEOPLE: Final = ("ann@home.example", "joe@gate.example")
HELD_ACCOUNTS: Final = 20
SCALE: Final = 500.0  # 25 minutes of greylisting in 3 seconds
READY_S: Final = 30.0
KINDS: Final = ("mx", "submission", "submissions", "lmtp", "imap", "imaps", "pop3", "pop3s")


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """The command line's wishes."""

    once: bool = False
    hold: bool = False
    json_file: Path | None = None
    data_dir: Path | None = None
    greylist: bool = False
    filter: bool = False
    workers: int = 1


class Trial:
    """One demonstration, from the folder to its end."""

    def __init__(self, options: TrialOptions) -> None:
        self._options = options
        self._console = Console(stderr=options.hold)
        self._clock = SystemClock()
        self._folder = options.data_dir or Path(tempfile.mkdtemp(prefix="gatepost-try-"))
        self._password = secrets.token_urlsafe(9)
        self._ends = False

    def run(self) -> int:
        """Do everything; return the exit status."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        try:
            return asyncio.run(self._scene())
        finally:
            if self._options.data_dir is None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._ends = True

    async def _scene(self) -> int:
        began = time.perf_counter()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._files = issue(self._folder, (HOSTNAME, *DOMAINS, "localhost"), (HOST,), self._clock.now())
        self._zone = Zone()
        zone_server = ZoneServer(self._zone)
        sink = Sink(self._folder / "sink", self._sink_context())
        try:
            self._dns = await zone_server.start(HOST)
            self._sink_port = await sink.start(REMOTE_HOST)
            self._ports = _free_ports(len(KINDS))
            (self._folder / "gatepost.toml").write_text(self._config())
            self._accounts = await self._populate()
            server = self._start_server()
            try:
                await self._wait_ready(server)
                return await self._show(server, time.perf_counter() - began)
            finally:
                await asyncio.to_thread(_end, server)
        finally:
            await sink.stop()
            await zone_server.stop()

    async def _show(self, server: "subprocess.Popen[bytes]", took: float) -> int:
        options = self._options
        if options.json_file is not None:
            facts = json.dumps(self._facts(server), indent=2) + "\n"
            fresh = options.json_file.with_suffix(".new")
            fresh.write_text(facts)
            fresh.rename(options.json_file)
        good = True
        if not options.hold:
            self._console.print(f"[bold]gatepost[/bold] is up after {took:.1f} s, as real processes on loopback.")
            play = Play(self._stage(), self._console)
            good = await asyncio.to_thread(play.act)
        if options.once:
            return 0 if good else 1
        self._console.print(self._card(server))
        await asyncio.to_thread(self._hold, server)
        return 0 if good and self._ends else 1

    def _hold(self, server: "subprocess.Popen[bytes]") -> None:
        """Wait for a signal, or for the server's end."""
        while not self._ends and server.poll() is None:
            time.sleep(0.1)

    # --- making -------------------------------------------------------------------------------------------

    def _config(self) -> str:
        """Return the TOML in force."""
        options, folder = self._options, self._folder
        listeners = "".join(
            f'[listen.{kind}]\nkind = "{kind}"\naddress = ["{HOST}:{port}"]\n\n'
            for kind, port in zip(KINDS, self._ports, strict=True)
        )
        exempt = "[]" if options.greylist else f'["{HOST}/32"]'
        return f"""\
# Made by `gatepost try`. Times of the gate run {SCALE:g} times faster than in earnest.
[server]
hostname = "{HOSTNAME}"
data_dir = "{folder / "data"}"
workers = {options.workers}

{listeners}[[tls.certificates]]
certificate = "{self._files.certificate}"
key = "{self._files.key}"

[resolver]
servers = ["{HOST}:{self._dns}"]

[accounts]
postmaster = "{PEOPLE[0]}"

[gate]
mode = "spamd"
exempt = {exempt}
pass_time = "{1500 / SCALE:g}s"
grey_time = "{14_400 / SCALE:g}s"
trap_time = "{86_400 / SCALE:g}s"
scan_interval = "500ms"
stutter = "2ms"
grey_stutter = "20ms"
messages = {{ spamd = "Your address %A is in the list of this demonstration.\\\\nIt will not get through." }}

[gate.rates]

[judge]
filter = {"true" if options.filter else "false"}

[relay]
port = {self._sink_port}
allow_loopback = true
"""

    async def _populate(self) -> list[str]:
        """Put domains, keys, accounts, lists and traps into the databases; publish the zone."""
        from gatepost.databases import reached  # above us in the layers' text, below in what it does

        folder, now = self._folder / "data", self._clock.now()
        folder.mkdir(parents=True, exist_ok=True)
        people = list(PEOPLE)
        if self._options.hold:
            people += [f"user{number:02}@{DOMAINS[number % 2]}" for number in range(HELD_ACCOUNTS - len(PEOPLE))]
        async with reached(folder) as databases:
            ids, hasher = Minter(255), Hasher(AccountSettings())
            for domain in DOMAINS:
                await accounts.add_domain(databases.mail, domain, now)
                steps = judge.new_key_steps(KeyFile.open(folder / "secret.key"), domain, now)
                await databases.mail.commit(Unit(steps, (judge.notice(),)))
            for address in people:
                made = await accounts.add_user(databases.mail, hasher, ids, address, self._password.encode(), now)
                steps = create_default_mailboxes_steps(made.id, ids, now)
                await databases.mail.commit(Unit((*made.steps, *steps), made.notices))
            await gate.add_entries(databases.gate, "nospamd", [KNOWN], now)
            await gate.add_entries(databases.gate, "spamd", [LISTED], now)
            await gate.add_spamtraps(databases.gate, [TRAP], now)
            self._publish(await judge.list_keys(databases.mail))
        return people

    def _publish(self, keys: list[judge.PublishedKey]) -> None:
        zone = self._zone
        zone.add(HOSTNAME, "A", HOST)
        for domain in DOMAINS:
            zone.add(domain, "MX", f"10 {HOSTNAME}.")
            zone.add_text(domain, "v=spf1 mx -all")
        for key in keys:
            zone.add_text(key.name, key.record)
        zone.add(REMOTE, "MX", f"10 mx.{REMOTE}.")
        zone.add(f"mx.{REMOTE}", "A", REMOTE_HOST)
        zone.add("sender.example", "MX", "10 mx.sender.example.")
        zone.add("mx.sender.example", "A", KNOWN)
        zone.add_text("sender.example", f"v=spf1 ip4:{KNOWN} -all")
        zone.add("10.1.0.127.in-addr.arpa", "PTR", "mx.sender.example.")

    def _sink_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._files.certificate, self._files.key)
        return context

    # --- running ------------------------------------------------------------------------------------------

    def _start_server(self) -> "subprocess.Popen[bytes]":
        log = (self._folder / "server.log").open("wb")
        command = [sys.executable, "-m", "gatepost", "serve", "-c", str(self._folder / "gatepost.toml")]
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        with log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)  # noqa: S603

    async def _wait_ready(self, server: "subprocess.Popen[bytes]") -> None:
        """Wait until every port answers; raises NotAsPlanned with the server's last words."""
        ends = time.monotonic() + READY_S
        log = self._folder / "server.log"
        while time.monotonic() < ends and not self._ends:
            if server.poll() is not None:
                break
            if re.search(rb"\bready\b", log.read_bytes()):
                return
            await asyncio.sleep(0.02)
        words = log.read_text("utf-8", "replace")[-2000:]
        raise NotAsPlanned(f"the server did not start:\n{words}")

    def _stage(self) -> Stage:
        return Stage(
            host=HOST,
            ports=dict(zip(KINDS, self._ports, strict=True)),
            ann=PEOPLE[0],
            joe=PEOPLE[1],
            password=self._password,
            remote=REMOTE,
            authority=self._files.authority,
            sink=self._folder / "sink",
            pass_time=1500 / SCALE,
            scan_time=0.5,
            scale=SCALE,
            verify=self._verify,
        )

    def _verify(self, mail: bytes) -> str:
        """Check a relayed mail's signatures against the zone, over the network like anybody else."""

        async def check() -> str:
            resolver = Resolver(((HOST, self._dns),), clock=self._clock)
            try:
                header = HeaderBlock.parse(mail)
                found = await verify(
                    raw_fields(mail, header), mail[header.end :], ResolvedNames(resolver), self._clock.now()
                )
            finally:
                await resolver.close()
            bad = [each for each in found if each.result is not Result.PASS]
            if bad:
                raise NotAsPlanned(f"dkim={bad[0].result.value}: {bad[0].reason}")
            kinds = ", ".join(dict(each.properties)["header.a"] for each in found)
            return f"dkim=pass for {found[0].domain} ({kinds})"

        return asyncio.run(check())

    # --- telling ------------------------------------------------------------------------------------------

    def _facts(self, server: "subprocess.Popen[bytes]") -> dict[str, Any]:  # Any: JSON
        return {
            "host": HOST,
            "ports": dict(zip(KINDS, self._ports, strict=True)),
            "accounts": [{"address": address, "password": self._password} for address in self._accounts],
            "domains": list(DOMAINS),
            "ca": str(self._files.authority),
            "dns": f"{HOST}:{self._dns}",
            "sink": str(self._folder / "sink"),
            "data_dir": str(self._folder / "data"),
            "config": (self._folder / "gatepost.toml").read_text(),
            "config_file": str(self._folder / "gatepost.toml"),
            "pid": server.pid,
        }

    def _card(self, server: "subprocess.Popen[bytes]") -> Panel:
        table = Table.grid(padding=(0, 2))
        ports = dict(zip(KINDS, self._ports, strict=True))
        table.add_row("IMAP", f"{HOST} port {ports['imaps']} (TLS) or {ports['imap']} (STARTTLS)")
        table.add_row("SMTP out", f"{HOST} port {ports['submissions']} (TLS) or {ports['submission']} (STARTTLS)")
        table.add_row("POP3", f"{HOST} port {ports['pop3s']} (TLS)")
        table.add_row("MX", f"{HOST} port {ports['mx']}")
        for address in self._accounts[:2]:
            table.add_row("account", f"{address}   password {self._password}")
        table.add_row("CA", str(self._files.authority))
        table.add_row("config", str(self._folder / "gatepost.toml"))
        table.add_row("stories", f"gatepost trace -c {self._folder / 'gatepost.toml'} {self._accounts[1]}")
        table.add_row("", "[dim]Connect your own mail program. Ctrl-C ends it and removes everything.[/dim]")
        return Panel(table, title=f"gatepost is running, pid {server.pid}", border_style="green", expand=False)


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now; held together for a moment so that they differ."""
    held = [socket.socket() for _ in range(count)]
    try:
        for sock in held:
            sock.bind((HOST, 0))
        return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


def _end(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(40)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
