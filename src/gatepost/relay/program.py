"""Deliver to a program or a file of this machine (smtpd.conf(5) mda, forward(5)).

The program runs as the user that the route names, never as root, without a shell unless the command is one; the
mail is its standard input, with Return-Path and Delivered-To on top and LF line ends. How it ends is the answer:

    exit status 0              delivered
    71, 75 (sysexits.h)        temporary, as is a signal, the end of its time, or that it could not be started
    any other                  permanent; the first of its output is the reason

A mail that has a Delivered-To of the same recipient has been here before: a loop, which is permanent.
"""

import os
import pwd
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Protocol

from gatepost.aio.offload import Overfull, ThreadPool
from gatepost.base.address import Address, ReversePath
from gatepost.base.ids import id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Code, Reply
from gatepost.codec.mail.header import HeaderBlock
from gatepost.policy.action import Route, RouteKind
from gatepost.policy.tables.kind import read_userinfo
from gatepost.relay.model import Consignment, Fate, Result

AT_ONCE: Final = 8
OUTPUT_MAX: Final = 4_096  # octets that are kept; the rest is read and forgotten
SHOWN_MAX: Final = 300  # letters of it in the answer
LOOK_AGAIN: Final = 0.1  # s; a child of the program may keep its output open
PATH: Final = "/usr/local/bin:/usr/bin:/bin"
TEMPORARY: Final = frozenset((os.EX_OSERR, os.EX_TEMPFAIL))
STATUS: Final[Mapping[int, str]] = {os.EX_NOUSER: "5.1.1", os.EX_NOHOST: "5.1.2", os.EX_NOPERM: "5.7.1"}
"""Enhanced codes of permanent ends (RFC 3463)."""
LOOP: Final = Reply(Code.FAILED, "5.4.6", "the mail was delivered here before: a loop")


class Unable(Exception):
    """The program cannot be run as configured; the mail waits until that is mended."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a program runs as."""

    name: str
    uid: int
    gid: int
    home: str

    @property
    def groups(self) -> tuple[int, ...]:
        """Return the groups besides the first."""
        return tuple(each for each in os.getgrouplist(self.name, self.gid) if each)


@dataclass(frozen=True, slots=True)
class Work:
    """What is run: its name for people, its words, and whether root's privileges are dropped before (`drop`)."""

    name: str
    words: list[str]
    drop: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit status, negative for a signal, None for the end of its time; and its words."""

    status: int | None
    output: str


class Deliverer(Protocol):
    """What sends mail to other machines."""

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]: ...
    def close(self) -> None: ...


class Programs:
    """Deliver what ends on this machine; hand everything else on."""

    def __init__(self, others: Deliverer, log: Log, *, time_limit: float, subaddress: str = "+") -> None:
        """Make it; `time_limit`: seconds that a program may take; `subaddress`: what parts user and detail."""
        self._others = others
        self._log = log
        self._time_limit = time_limit
        self._subaddress = subaddress
        self._pool = ThreadPool(threads=AT_ONCE, name="program")
        self._running: set[subprocess.Popen[bytes]] = set()

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        """Try once; return one result for each recipient, in order."""
        if not consignment.route.on_disk:
            return await self._others.deliver(consignment)
        content = await consignment.load()
        return tuple([await self._one(consignment, each.address, content) for each in consignment.recipients])

    def close(self) -> None:
        """End what runs and the kept connections."""
        for process in tuple(self._running):
            _kill(process)
        self._others.close()

    async def _one(self, consignment: Consignment, recipient: Address, content: bytes) -> Result:
        try:
            fate, reply = await self._pool.run(self._run, consignment, recipient, content)
        except (Unable, OSError, Overfull) as wrong:
            self._log.error("program_not_run", message=id_text(consignment.mail), problem=str(wrong))
            fate, reply = Fate.DEFERRED, Reply(Code.LOCAL_ERROR, "4.3.5", f"could not be run: {wrong}")
        self._log.info(
            fate.value,
            message=id_text(consignment.mail),
            to=str(recipient),
            host=consignment.route.destination(recipient),
            reply=f"{reply.code} {reply.enhanced} {reply.text}",
        )
        return Result(fate, reply, consignment.route.destination(recipient), said=False)

    def _run(self, consignment: Consignment, recipient: Address, content: bytes) -> tuple[Fate, Reply]:
        """Run the program for one recipient. It blocks: in a thread."""
        if _was_here(content, recipient):
            return Fate.FAILED, LOOP
        owner = owner_of(consignment.route.auth)
        work = work_of(consignment.route, consignment.sender, owner)
        with tempfile.TemporaryFile() as mail:
            mail.write(_top(consignment.sender, recipient))
            mail.write(content.replace(b"\r\n", b"\n"))
            mail.seek(0)
            process = subprocess.Popen(  # noqa: S603  (the operator permits it, table by table)
                work.words,
                stdin=mail,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment(owner, consignment.sender, recipient, self._subaddress),
                cwd=owner.home if os.access(owner.home, os.X_OK) else "/",
                start_new_session=True,  # so that all it starts can be ended with it
                umask=0o077,
                user=owner.uid if work.drop else None,
                group=owner.gid if work.drop else None,
                extra_groups=owner.groups if work.drop else None,
            )
        self._running.add(process)
        try:
            ended = _watch(process, self._time_limit)
        finally:
            self._running.discard(process)
        return answer(work.name, ended)


def owner_of(text: str) -> Owner:
    """Return whom a route runs as; raises Unable where that is root, nobody's name, or not ours to become."""
    name, known, entry = text.partition("=")
    try:
        if known:
            owner = Owner(name, *read_userinfo(entry))
        else:
            found = pwd.getpwnam(name)
            owner = Owner(name, found.pw_uid, found.pw_gid, found.pw_dir)
    except (KeyError, ValueError) as wrong:
        raise Unable(f"there is no user {name!r}") from wrong
    if owner.uid == 0:
        raise Unable(f"{name} is root: programs never run as root")
    if os.geteuid() not in (0, owner.uid):
        raise Unable(
            f"this server is uid {os.geteuid()} and cannot become {name}: name its own user, or start as root"
        )
    return owner


def work_of(route: Route, sender: ReversePath, owner: Owner) -> Work:
    """Return what to run for a route."""
    root = os.geteuid() == 0
    if route.kind is RouteKind.PROGRAM:
        words = shlex.split(route.host)
        return Work(words[0], words, root)
    source = files("gatepost.relay").joinpath("filing.py").read_text("utf-8")
    python = [os.path.realpath(sys.executable), "-I", "-S", "-c", source]
    whom = f"{owner.uid}:{owner.gid}:{','.join(map(str, owner.groups))}" if root else ""
    origin = "" if sender is None else str(sender)
    return Work(route.host, [*python, route.kind.value, route.host, origin, whom], drop=False)


def environment(owner: Owner, sender: ReversePath, recipient: Address, subaddress: str = "+") -> dict[str, str]:
    """Return the variables of smtpd's MDA, and nothing of ours."""
    local, _, extension = recipient.local.partition(subaddress) if subaddress else (recipient.local, "", "")
    return {
        "PATH": PATH,
        "SHELL": "/bin/sh",
        "HOME": owner.home,
        "USER": owner.name,
        "LOGNAME": owner.name,
        "SENDER": "" if sender is None else str(sender),
        "RECIPIENT": str(recipient) if recipient.domain else recipient.local,
        "LOCAL": local,
        "EXTENSION": extension,
        "DOMAIN": recipient.domain,
    }


def answer(name: str, ended: Ended) -> tuple[Fate, Reply]:
    """Return what the end of a program means."""
    said = f": {ended.output}" if ended.output else ""
    match ended.status:
        case 0:
            return Fate.DELIVERED, Reply(Code.OK, "2.0.0", "delivered")
        case None:
            return Fate.DEFERRED, Reply(Code.LOCAL_ERROR, "4.3.0", f"{name} took too long and was ended{said}")
        case status if status < 0:
            return Fate.DEFERRED, Reply(Code.LOCAL_ERROR, "4.3.0", f"{name} died of signal {-status}{said}")
        case status if status in TEMPORARY:
            return Fate.DEFERRED, Reply(Code.LOCAL_ERROR, "4.3.0", f"{name} ended with {status}{said}")
        case status:
            enhanced = STATUS.get(status, "5.3.0")
            return Fate.FAILED, Reply(Code.FAILED, enhanced, f"{name} ended with {status}{said}")


def _was_here(content: bytes, recipient: Address) -> bool:
    header = HeaderBlock.parse(content)
    mine = recipient.key.encode()
    return any(each.strip().lower() == mine for each in header.get(b"delivered-to"))


def _top(sender: ReversePath, recipient: Address) -> bytes:
    origin = "" if sender is None else str(sender)
    return f"Return-Path: <{origin}>\nDelivered-To: {recipient if recipient.domain else recipient.local}\n".encode()


def _watch(process: "subprocess.Popen[bytes]", time_limit: float) -> Ended:
    """Read the output until the program ends; end it and all it started when its time is over."""
    assert process.stdout is not None
    end = time.monotonic() + time_limit
    kept = b""
    ready = select.poll()
    with process.stdout as output:
        ready.register(output, select.POLLIN | select.POLLHUP)
        reading = True
        while reading and time.monotonic() < end:
            if ready.poll(LOOK_AGAIN * 1000):
                octets = os.read(output.fileno(), 65_536)
                kept += octets[: OUTPUT_MAX - len(kept)]
                reading = bool(octets)
            elif process.poll() is not None:
                reading = False
    try:
        return Ended(process.wait(max(0.0, end - time.monotonic())), _words(kept))
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()
        return Ended(None, _words(kept))


def _kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _words(octets: bytes) -> str:
    text = " ".join(octets.decode("utf-8", "replace").split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:SHOWN_MAX]
