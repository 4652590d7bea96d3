"""One whole server for the catalogue: `app.Worker` with real databases, sockets and TLS, all in this process.

    async with house() as here, here.client("mx") as client:
        assert await client.say("NOOP") == ["250 2.0.0"]

Every house is looked over at its end, for every row says so: a new client is greeted within a second, a reader who
was there all the time never waited for long, nothing unforeseen was logged, no reply showed what we are made of,
memory did not grow, and what mails took of the spool was given back. Accounts: bob and alice of here.example
(`secret`), postmaster is bob.
"""

import asyncio
import os
import socket
import ssl
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from unittest.mock import patch

from gatepost.accounts import verbs
from gatepost.accounts.model import AccountId
from gatepost.app import Worker
from gatepost.base.clock import Instant, later, seconds
from gatepost.base.ids import Minter
from gatepost.base.settings import fill
from gatepost.config import Config, Kind
from gatepost.databases import GATE_SCHEMAS, MAIL_SCHEMAS, Databases
from gatepost.db.sqlite import open_database
from gatepost.db.unit import Rows, Statement, Unit
from gatepost.store.verbs import create_default_mailboxes_steps
from tests.support.loop import run
from tests.support.zone import Zone

HOST: Final = "mx.example"
PATIENCE: Final = 20.0  # s until a test that waits for the server is told that it hangs
ALIVE_S: Final = 1.0
BYSTANDER: Final = "203.0.113.99"
BYSTANDER_S: Final = 1.5  # what an attack does takes seconds; other tests beside this one take their share
GROWTH: Final = 64 << 20
MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None  # these databases need not survive
PYTHON: Final = (b"Traceback", b"Error:", b".py", b"Exception", b"None", b"<class", b"object at")
PLAIN_BOB: Final = "AUTH PLAIN AGJvYkBoZXJlLmV4YW1wbGUAc2VjcmV0"
HEAD: Final = b"From: Ann <a@sender.example>\r\nSubject: x\r\n\r\n"

ZONE: Final = {
    "client.example": {"A": ["192.0.2.9"]},
    # two lists of senders: 198.51.100.7 is on the black one, 198.51.100.8 on the white one
    "bl.example": {"TXT": ['"a list"']},
    "2.0.0.127.bl.example": {"A": ["127.0.0.2"]},
    "7.100.51.198.bl.example": {"A": ["127.0.0.2"], "TXT": ['"100% spam, see https://bl.example/7"']},
    "wl.example": {"TXT": ['"a list"']},
    "2.0.0.127.wl.example": {"A": ["127.0.0.2"]},
    "8.100.51.198.wl.example": {"A": ["127.0.0.2"]},
}

Table = Mapping[str, object]
NOTHING: Final[Mapping[str, Any]] = {}


class MovedClock:
    """The system's clocks; the wall clock can be stopped and set forward."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._stopped: Instant | None = None

    def now(self) -> Instant:
        """Return the wall clock."""
        return later(self._stopped or Instant(time.time_ns() // 1000), seconds(self._ahead))

    def stop(self) -> None:
        """Let the wall clock stand still, but for `move`: what a rate forgets is then known."""
        self._stopped = Instant(time.time_ns() // 1000)

    def steady(self) -> float:
        """Return the steady clock, which nobody moves: the wires' deadlines are of it."""
        return time.monotonic()

    def move(self, passed: float) -> None:
        """Set the wall clock forward."""
        self._ahead += passed


class Notebook:
    """A log that keeps its lines as (level, event, fields)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def debug(self, event: str, **fields: object) -> None:
        self.lines.append(("debug", event, fields))

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(("error", event, fields))

    def exception(self, event: str, **fields: object) -> None:
        self.lines.append(("exception", event, fields))

    def events(self, *names: str) -> list[dict[str, object]]:
        """Return the fields of all lines of these events."""
        return [fields for _, event, fields in self.lines if event in names]


class SeenAs(Worker):
    """A worker to which loopback clients seem to come from the address they were given."""

    seen: dict[int, str]

    def _accept(self, wire, kind, name, tag):  # type: ignore[no-untyped-def]  # Worker's own, private
        wire.peer_ip = self.seen.get(wire.peer_port, wire.peer_ip)
        return super()._accept(wire, kind, name, tag)


@dataclass
class House:
    """The server, and what can be seen of it from outside and inside."""

    worker: SeenAs
    databases: Databases
    log: Notebook
    clock: MovedClock
    folder: Path
    config: Config
    ports: dict[str, int]
    accounts: dict[str, AccountId]
    heard: list[bytes] = field(default_factory=list)
    """All that the server said to any client."""
    hashed: list[bytes] = field(default_factory=list)
    """The passwords that were really looked at."""
    pauses: list[float] = field(default_factory=list)
    """The delays that sessions were made to wait: they are noted, not waited for."""

    @asynccontextmanager
    async def client(
        self, kind: str = "mx", *, ip: str = "127.0.0.1", hello: bool = True, tls: bool = False
    ) -> AsyncIterator["Client"]:
        """Connect as `ip` and read the greeting; `tls`: STARTTLS where it is not there yet; `hello`: greet."""
        reader, writer = await self.connect(kind, ip=ip)
        client = Client(reader, writer, self.heard, kind)
        try:
            await client.reply()
            if tls and not Kind(kind).implicit_tls:
                await client.secure()
            if hello and client.speaks_smtp:
                await client.hello()
            yield client
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except (OSError, ssl.SSLError):
                pass

    async def connect(
        self, kind: str, *, ip: str = "127.0.0.1", silent: bool = False
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; on ports with implicit TLS also shake hands, unless `silent`."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        self.worker.seen[sock.getsockname()[1]] = ip
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.ports[kind]))
        if Kind(kind).implicit_tls and not silent:
            return await asyncio.open_connection(sock=sock, ssl=trusting(), server_hostname=HOST)
        return await asyncio.open_connection(sock=sock, limit=1 << 24)

    async def mails(self, user: str = "bob", mailbox: str = "INBOX") -> list[bytes]:
        """Return all bodies of a mailbox."""
        mailboxes = self.worker._mailboxes
        found = (await mailboxes.find(self.accounts[user], mailbox)).id
        return [await mailboxes.body(found, uid) for uid, _, _ in await mailboxes.rows(found)]

    async def queued(self) -> list[str]:
        """Return the recipients that wait in the queue."""
        return sorted(str(row[0]) for row in await self.rows("SELECT recipient FROM queue_rcpt"))

    async def rows(self, select: str, *, gate: bool = False) -> Rows:
        """Run a SELECT."""
        database = self.databases.gate if gate else self.databases.mail
        return await database.read_long(Statement(f"t.{select}", select), {})

    def logged(self, word: str) -> list[str]:
        """Return the lines of the log with a word in them."""
        return [f"{event} {fields}" for _, event, fields in self.log.lines if word in str(fields)]

    async def settled(self) -> None:
        """Wait until every session has ended."""
        await until(lambda: set(self.worker._live) <= {BYSTANDER})

    async def unharmed(self) -> None:
        """See to what every row demands."""
        await self.settled()
        begun = time.monotonic()
        async with self.client(ip="203.0.113.77") as client:
            assert await client.say("NOOP") == ["250 2.0.0"]
        assert time.monotonic() - begun < ALIVE_S
        assert [line for line in self.log.lines if line[0] == "exception"] == []
        failed = self.log.events("job_failed", "intake_failed", "session_failed")
        assert not failed, failed
        said = b"".join(self.heard)
        assert [word for word in PYTHON if word in said] == []
        budget, limits = self.worker._budget, self.config.intake
        await until(lambda: (budget.memory, budget.disk) == (limits.spool_memory, limits.spool_disk))
        assert list((self.folder / "spool").glob("*")) == []


class Client:
    """One connection of a client that can be as rude as it likes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: list[bytes], kind: str
    ) -> None:
        self.reader, self.writer = reader, writer
        self._heard = heard
        self._kind = kind
        self.speaks_smtp = kind in ("mx", "submission", "submissions", "lmtp")

    async def line(self) -> bytes:
        """Return one line with its CRLF; b"" at the end."""
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readline()
        self._heard.append(line)
        return line

    async def reply(self) -> bytes:
        """Return one whole SMTP reply (IMAP, POP3: a line); what there was of it when the connection ended."""
        if not self.speaks_smtp:
            return await self.line()
        octets = b""
        while line := await self.line():
            octets += line
            if line[3:4] != b"-":
                break
        return octets

    async def rest(self) -> bytes:
        """Return all that is said until the server ends the connection."""
        octets = b""
        async with asyncio.timeout(PATIENCE):
            try:
                while more := await self.reader.read(65_536):
                    octets += more
            except ConnectionError:
                pass
        self._heard.append(octets)
        return octets

    async def send(self, octets: bytes, *, one_by_one: bool = False) -> None:
        """Send octets in one piece, or so that the server reads them one by one; stop when it has hung up."""
        pieces = [octets[at : at + 1] for at in range(len(octets))] if one_by_one else [octets]
        try:
            for piece in pieces:
                if self.reader._eof:  # type: ignore[attr-defined]  # a write would only bring a reset
                    return
                self.writer.write(piece)
                await self.writer.drain()
                for _ in range(2 * one_by_one):  # turns of the loop: the server reads it, and answers
                    await asyncio.sleep(0)
        except ConnectionError:
            pass

    async def ask(self, octets: bytes, *, one_by_one: bool = False) -> bytes:
        """Send octets and return the next reply."""
        await self.send(octets, one_by_one=one_by_one)
        return await self.reply()

    async def say(self, *lines: str | bytes) -> list[str]:
        """Send lines one after the other; return code and enhanced code of the reply to each."""
        octets = [line if isinstance(line, bytes) else line.encode() for line in lines]
        return [code(await self.ask(line + b"\r\n")) for line in octets]

    async def command(self, line: str | bytes) -> list[bytes]:
        """Send an IMAP command `tag WORD ...` without its CRLF; return the lines up to its tagged answer."""
        octets = line.encode() if isinstance(line, str) else line
        await self.send(octets + b"\r\n")
        said = [await self.line()]
        while said[-1] and not said[-1].startswith(octets.partition(b" ")[0] + b" "):
            said.append(await self.line())
        return said

    async def listed(self, command: str) -> list[bytes]:
        """Send a POP3 command whose answer ends in a dot; return the lines of it."""
        said = [await self.ask(command.encode() + b"\r\n")]
        while said[-1] not in (b".\r\n", b""):
            said.append(await self.line())
        return said

    async def hello(self, name: str = "client.example") -> bytes:
        """Say EHLO or LHLO; return what is offered."""
        return await self.ask((("LHLO " if self._kind == "lmtp" else "EHLO ") + name + "\r\n").encode())

    async def secure(self) -> None:
        """Say STARTTLS in the port's protocol, and shake hands."""
        if self.speaks_smtp:
            await self.hello()
        command, yes = {"imap": (b"s STARTTLS", b"s OK"), "pop3": (b"STLS", b"+OK")}.get(
            self._kind, (b"STARTTLS", b"220 ")
        )
        assert (await self.ask(command + b"\r\n")).startswith(yes)
        await self.shake()

    async def shake(self) -> None:
        """Do the client's TLS handshake."""
        async with asyncio.timeout(PATIENCE):
            await self.writer.start_tls(trusting(), server_hostname=HOST)

    async def begin(self, sender: str = "<a@sender.example>", *recipients: str) -> list[str]:
        """Say MAIL, RCPTs (bob@here.example when none is given) and DATA."""
        rcpts = [f"RCPT TO:<{each}>" for each in recipients or ("bob@here.example",)]
        return await self.say(f"MAIL FROM:{sender}", *rcpts, "DATA")

    async def mail(self, content: bytes = HEAD, sender: str = "<a@sender.example>", *recipients: str) -> str:
        """Send a mail whose content ends in CRLF; return the code of the last answer."""
        codes = await self.begin(sender, *recipients)
        if codes[-1] != "354":
            return codes[-1]
        return code(await self.ask((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"))


def code(octets: bytes) -> str:
    """Return code and enhanced code of a reply's last line; "" for none."""
    words = octets.removesuffix(b"\r\n").split(b"\r\n")[-1].decode().split(" ")
    return " ".join(words[:2]) if len(words) > 1 and words[1][1:2] == "." else words[0]


def codes(octets: bytes) -> list[str]:
    """Return code and enhanced code of all replies, each of one line."""
    return [code(line) for line in octets.split(b"\r\n")[:-1]]


def trusting() -> ssl.SSLContext:
    """Return a client context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def until(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Wait until a callable tells yes."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def until_so(condition: Callable[[], Awaitable[object]], *, within: float = 10.0) -> None:
    """Wait until a coroutine tells yes."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


def resident() -> int:
    """Return the octets of memory that this process has in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def scene(
    play: Callable[[House], Coroutine[object, object, None]],
    *,
    aliases: Mapping[str, str] = NOTHING,
    **settings: Table,
) -> None:
    """Play a scene in a house of its own. Settings are those of gatepost.toml: `intake={"max_size": 1000}`."""

    async def whole() -> None:
        async with house(settings, aliases=aliases) as here:
            await play(here)

    run(whole())


def relaying(port: int, tls: str = "may", *, anyones: bool = False) -> dict[str, Table]:
    """Return settings by which all mail of users (`anyones`: and of strangers) to others goes to a next hop."""
    hop = {"do": "relay", "host": "127.0.0.1", "port": port, "tls": tls}
    whose = {"from": "any", "for": "any"} | ({} if anyones else {"auth": True})
    rules = [
        {"match": {"from": "any", "for": ["own", "local"]}, "action": "deliver"},
        {"match": whose, "action": "hop"},
    ]
    return {"policy": {"actions": {"hop": hop}, "rules": rules}, "relay": {"allow_loopback": True}}


@asynccontextmanager
async def house(
    settings: Mapping[str, Table] = NOTHING,
    *,
    aliases: Mapping[str, str] = NOTHING,
    authorities: Path = Path(os.devnull),
) -> AsyncIterator[House]:
    """Run a server. Settings are those of gatepost.toml, by table: `{"intake": {"max_size": 1000}}`.

    `authorities`: the certificates it trusts, instead of the machine's, which take 40 ms to read.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gatepost-catalogue-", dir=MEMORY)))
        zone = await stack.enter_async_context(Zone(ZONE))
        config = _config(folder, zone.address, settings)
        stack.enter_context(patch.dict(os.environ, SSL_CERT_FILE=str(authorities)))
        databases = Databases(
            await _opened(stack, folder / "mail.db", mail=True),
            await _opened(stack, folder / "gate.db", mail=False),
        )
        accounts = await _people(databases, config, aliases)
        here = await _start(stack, config, databases, accounts)
        bystander = await stack.enter_async_context(_bystander(here))
        before = resident()
        yield here
        assert resident() - before < GROWTH
        await here.unharmed()
        assert statistics.quantiles([*bystander, 0.0, 0.0], n=100)[-1] < BYSTANDER_S


def _config(folder: Path, resolver: tuple[str, int], settings: Mapping[str, Table]) -> Config:
    usual: dict[str, Table] = {
        "server": {"hostname": HOST, "data_dir": str(folder), "workers": 1},
        "listen": {kind.value: {"kind": kind.value, "address": ["127.0.0.1:0"]} for kind in Kind},
        "resolver": {"servers": [f"{resolver[0]}:{resolver[1]}"]},
        "accounts": {"password_rounds": 1, "password_memory": 65_536},
        "gate": {"greylist": False, "exempt": ["127.0.0.0/8"], "rates": {}},
        "judge": {"verify": False},
    }
    together = {name: {**usual.get(name, {}), **settings.get(name, {})} for name in (*usual, *settings)}
    return fill(Config, together)


async def _opened(stack: AsyncExitStack, path: Path, *, mail: bool):  # type: ignore[no-untyped-def]  # SqliteDatabase
    schemas = MAIL_SCHEMAS if mail else GATE_SCHEMAS
    database = await open_database(path, schemas, steady=time.monotonic, durable=False)
    stack.push_async_callback(database.close)
    return database


async def _people(databases: Databases, config: Config, aliases: Mapping[str, str]) -> dict[str, AccountId]:
    from gatepost.accounts.password import Hasher

    now, minter, hasher = Instant(time.time_ns() // 1000), Minter(1), Hasher(config.accounts)
    accounts = {}
    await verbs.add_domain(databases.mail, "here.example", now)
    for user in ("bob", "alice"):
        made = await verbs.add_user(
            databases.mail, hasher, minter, f"{user}@here.example", b"secret", now, admin=user == "bob"
        )
        steps = made.steps + create_default_mailboxes_steps(made.id, minter, now)
        await databases.mail.commit(Unit(steps, made.notices))
        accounts[user] = made.id
    for alias, target in aliases.items():
        await verbs.add_alias(databases.mail, alias, (target,), now)
    hasher.close()
    return accounts


async def _start(
    stack: AsyncExitStack, config: Config, databases: Databases, accounts: dict[str, AccountId]
) -> House:
    log, clock = Notebook(), MovedClock()
    worker = SeenAs(config, databases, log, slot=0, mint=0)
    worker.seen = {}
    worker._clock = clock
    sockets = {kind.value: socket.create_server(("127.0.0.1", 0), backlog=1024) for kind in Kind}
    for sock in sockets.values():
        stack.callback(sock.close)
    await worker.start({name: [sock] for name, sock in sockets.items()})
    ports = {name: int(sock.getsockname()[1]) for name, sock in sockets.items()}
    here = House(worker, databases, log, clock, config.data_dir, config, ports, accounts)
    _overhear(here)
    working = asyncio.get_running_loop().create_task(worker.run())
    stack.push_async_callback(_stop, worker, working)
    return here


def _overhear(here: House) -> None:
    """Note what is hashed, and the delays instead of waiting for them."""
    worker, hasher = here.worker, here.worker._directory._hasher
    matches = hasher.matches

    async def noted(kept: str | None, password: bytes) -> bool:
        here.hashed.append(password)
        return await matches(kept, password)

    async def pause(length: float) -> None:
        here.pauses.append(length)
        await asyncio.sleep(0)

    hasher.matches = noted  # type: ignore[method-assign]
    worker._intake = replace(worker._intake, pause=pause)
    worker._view = replace(worker._view, pause=pause)


async def _stop(worker: Worker, working: asyncio.Task[None]) -> None:
    await worker.drain(0)
    await working
    worker._directory._hasher.close()


@asynccontextmanager
async def _bystander(here: House) -> AsyncIterator[list[float]]:
    """Let alice read her mail all the time; gives how long she waited for each answer."""
    waited: list[float] = []
    async with here.client("imaps", ip=BYSTANDER) as reader:
        await reader.send(b"a LOGIN alice@here.example secret\r\n")
        assert b"a OK" in await reader.line()
        here.hashed.clear()
        here.heard.clear()

        async def read() -> None:
            while True:
                begun = time.monotonic()
                await reader.send(b"b NOOP\r\n")
                assert (await reader.line()).startswith(b"b OK")
                waited.append(time.monotonic() - begun)
                await asyncio.sleep(0.01)

        reading = asyncio.get_running_loop().create_task(read())
        try:
            yield waited
            assert not reading.done(), reading
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await reader.send(b"c LOGOUT\r\n")


def counted(replies: bytes) -> Counter[str]:
    """Count replies by their codes."""
    return Counter(codes(replies))
