"""The process that alone holds CAP_NET_ADMIN: it loads the ruleset and keeps the kernel's sets equal to the tables.

It has no listener and hears no stranger. It reads gate.db and hears its notices as workers do, and what differs
goes to the kernel. Should it die, rules and sets stay as they are, the gate in the workers decides about what comes
through, and `watch` starts it anew; when it is asked to end it takes the ruleset away.

    begin:   load the ruleset, fill every set      after a start, an error, or when somebody took our table away
    follow:  a notice -> the tables it names; every second: is our table there, whom did the kernel ban itself

The kernel answers while it is called, so these calls are made on the loop: nobody else is served here.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from gatepost.aio.offload import offload
from gatepost.aio.process import die_with_parent, name_process
from gatepost.base.clock import Clock, Instant, later, seconds
from gatepost.base.ports import Log
from gatepost.codec import nft
from gatepost.db.unit import Database, NotCommitted, Rows, Unit
from gatepost.gate import sql
from gatepost.gate.decide import BRUTEFORCE, GREYTRAP, NOSPAMD, WHITE
from gatepost.gate.kernel.mirror import NEVER, Base, Content, Member, Mirror, Span, base_of, flatten, union
from gatepost.gate.kernel.rules import BLACK_SETS, LISTS, MADE, SETS, TABLE, Ports, remove, ruleset
from gatepost.gate.kernel.settings import KernelMode, KernelSettings
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part, read_networks, read_parts
from gatepost.gate.prefix import Prefix, parse_prefix, sender_prefix
from gatepost.gate.settings import GateSettings
from gatepost.gate.steps import (
    GREY_TOPIC,
    TABLE_TOPIC,
    check_limit_step,
    entry_of,
    entry_step,
    table_key,
    table_news,
)
from gatepost.gate.table import BadEntry, Entry, read_compact

FRESH_S: Final = 0.02  # between a notice and the look at what it was about: notices come in swarms
LOOK_S: Final = 1.0
AGAIN_S: Final = (0.1, 0.5, 2.0, 5.0)  # after failures in a row
LIVED_WELL_S: Final = 10.0
BAN_NOTE: Final = "kernel: over its limits"


class Filter(Protocol):
    """The kernel's packet filter: `aio.netlink.Netfilter`."""

    def apply(self, changes: Sequence[nft.Change]) -> None: ...
    def table(self, name: str) -> int | None: ...
    def elements(self, table: str, name: str) -> list[nft.Element]: ...
    def cut(self, version: int, first: int, last: int) -> int: ...


class Compiler(Protocol):
    """Loads rulesets: `aio.libnftables.Libnftables`."""

    def run(self, text: str, *, dry: bool = False) -> str: ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the ruleset and the sets are made from."""

    gate: GateSettings
    kernel: KernelSettings
    ports: Ports


class Vanished(OSError):
    """Somebody took our table out of the kernel."""


class KernelGate:
    """See the module's words; `run` until cancelled, then `end`."""

    def __init__(
        self, policy: Policy, database: Database, packets: Filter, compiler: Compiler, clock: Clock, log: Log
    ) -> None:
        self._policy = policy
        self._database = database
        self._packets = packets
        self._compiler = compiler
        self._clock = clock
        self._log = log
        self._mirror = Mirror(packets)
        self._handle: int | None = None
        self._files: dict[str, list[Entry] | Networks] = {}
        self._bases: dict[str, tuple[tuple[Networks, ...], Base]] = {}
        self._fed: dict[tuple[str, str], tuple[Instant, Networks]] = {}
        self._banned: frozenset[Prefix] | None = None
        self._fresh: frozenset[Prefix] = frozenset()
        self._made: set[Prefix] = set()
        self._stale: set[str] = set()
        self._wake = asyncio.Event()
        self._renewed = asyncio.Event()
        self._cuts = True

    def renew(self, policy: Policy) -> None:
        """Take other settings: the ruleset is loaded anew, sets stay filled."""
        self._policy = policy
        self._renewed.set()
        self._wake.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Keep the kernel equal to the tables until cancelled; `ready` is called when it first is."""
        self._database.listen(TABLE_TOPIC, self._heard_of_table)
        self._database.listen(GREY_TOPIC, lambda _: self._mark((WHITE, GREYTRAP)))
        failures, told = 0, False
        while True:
            try:
                await self.begin()
                if not told:
                    told = True
                    ready()
                failures = 0
                await self._follow()
            except (OSError, NotCommitted, BadEntry) as wrong:
                self._log.error("kernel_gate_failed", error=str(wrong), text="The workers' gate decides meanwhile.")
                await asyncio.sleep(AGAIN_S[min(failures, len(AGAIN_S) - 1)])
                failures += 1

    async def begin(self) -> None:
        """Load the ruleset and fill every set; raises OSError, NotCommitted or BadEntry."""
        self._renewed.clear()
        if self._policy.kernel.mode is KernelMode.OFF:
            self._compiler.run(remove())
            return
        text = ruleset(self._policy.gate, self._policy.kernel, self._policy.ports)
        try:
            self._compiler.run(text)
        except OSError:  # sets of another shape are there: what they hold is soon there again
            self._compiler.run(remove() + text)
        self._handle = self._packets.table(TABLE)
        self._mirror.forget()
        self._banned = None
        now = self._clock.now()
        self._files = {
            name: await offload(read_compact, Path(path), now) for name, path in self._policy.gate.tables.items()
        }
        self._stale = set(SETS)
        await self.refresh()
        self._log.info("kernel_gate_ready", elements=sum(self._mirror.sizes().values()))

    async def refresh(self) -> None:
        """Give the kernel what changed."""
        names, self._stale = self._stale, set()
        self._wake.clear()
        try:
            for name in [name for name in SETS if name in names]:
                content = await self._content(name)
                self._mirror.give(name, content, self._clock.now())
                names.discard(name)
                if name == BRUTEFORCE:
                    self._flush()
        except BaseException:
            self._stale |= names
            raise

    async def look(self) -> None:
        """See that our table is there, and take over whom the kernel banned itself; raises Vanished."""
        if self._packets.table(TABLE) != self._handle:
            raise Vanished(f"table inet {TABLE} was taken out of the kernel by somebody else")
        if self._policy.kernel.limits:
            await self._take_bans()

    def sizes(self) -> Mapping[str, int]:
        """Return how many elements each set has."""
        return self._mirror.sizes()

    def end(self) -> None:
        """Take the ruleset out of the kernel."""
        with suppress(OSError):
            self._compiler.run(remove())

    async def _follow(self) -> None:
        if self._policy.kernel.mode is KernelMode.OFF:
            await self._renewed.wait()
        while not self._renewed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
                await asyncio.sleep(FRESH_S)
            if not self._renewed.is_set():
                await self.refresh()
                await self.look()

    def _heard_of_table(self, key: int) -> None:
        if not key:
            self._mark(SETS)
            return
        # A list of spamd's has a name that only the database knows: any other table may be one.
        self._mark([name for name in SETS if table_key(name) == key] or (LISTS,))

    def _mark(self, names: Iterable[str]) -> None:
        self._stale.update(names)
        self._wake.set()

    # --- what a table holds -----------------------------------------------------------------------------------

    async def _content(self, name: str) -> Content:
        if name in (WHITE, GREYTRAP):
            rows = await self._database.read_long(sql.HOSTS, {"now": self._clock.now()})
            return await offload(_hosts, rows, name == GREYTRAP)
        if name == LISTS:
            lists = dict.fromkeys(
                part.table for part in await read_parts(self._database) if part.message is not None
            )
            return _joined([await self._table(each, whole=True) for each in lists if each not in BLACK_SETS])
        return await self._table(name)

    async def _table(self, name: str, *, whole: bool = False) -> Content:
        """Return what a table holds; `whole`: all of it as spans, without a base."""
        rows = await self._database.read_long(sql.ENTRIES, {"tbl": name})
        fed = await self._read_fed(name)
        file = self._files.get(name, ())
        if isinstance(file, Networks):
            fed, file = [*fed, file], ()
        if name == NOSPAMD:
            file = (*file, *(Entry(parse_prefix(each)) for each in self._policy.gate.backups))
        lasts = 0
        if name == BRUTEFORCE:
            self._hear_bans(rows)
            lasts = seconds(self._policy.gate.bans.ban_time)
        members = await offload(_members, rows, file, lasts)
        own = await offload(_content, members, ())
        if not fed:
            return own
        if whole or any(each.negated for each in members) or not own.few():
            return await offload(_content, members, fed)
        return replace(own, base=await self._base(name, tuple(fed)))

    async def _base(self, name: str, fed: tuple[Networks, ...]) -> Base:
        """Return what feeds give a table, made ready: the same object while they give the same."""
        kept = self._bases.get(name)
        if kept is None or len(kept[0]) != len(fed) or any(a is not b for a, b in zip(kept[0], fed, strict=True)):
            kept = self._bases[name] = fed, await offload(base_of, fed)
        return kept[1]

    async def _read_fed(self, name: str) -> list[Networks]:
        """Return what feeds give a table, read anew only where one of them gave something else."""
        mine: dict[str, Part] = {
            part.source: part for part in await read_parts(self._database) if part.table == name
        }
        known = {feed: self._fed.get((name, feed)) for feed in mine}
        if any(found is None or found[0] != mine[feed].since for feed, found in known.items()):
            networks = await read_networks(self._database, name)
            for feed, part in mine.items():
                if feed in networks:
                    self._fed[name, feed] = part.since, networks[feed]
        for key in [key for key in self._fed if key[0] == name and key[1] not in mine]:
            del self._fed[key]
        return [self._fed[name, feed][1] for feed in mine if (name, feed) in self._fed]

    # --- bans -------------------------------------------------------------------------------------------------

    def _hear_bans(self, rows: Rows) -> None:
        """Remember whom limits banned (they left a note): the connections of fresh ones are cut in `_flush`."""
        entries = [entry_of(row) for row in rows]
        noted = frozenset(entry.network for entry in entries if entry.note)
        self._fresh = noted - self._banned if self._banned is not None else frozenset()
        self._banned = noted
        freed = self._made - {entry.network for entry in entries}
        self._made -= freed
        for prefix in freed:  # deleted by hand, or expired in the table
            with suppress(OSError):  # it had left the set by itself
                self._packets.apply(
                    [*nft.delete(TABLE, f"{MADE}{prefix.version}", prefix.version, [_one(prefix)], hosts=True)]
                )

    def _flush(self) -> None:
        """Make the kernel forget the connections of sources that were banned just now: PF's `flush global`."""
        for prefix in self._fresh:
            span = _whole(prefix)
            try:
                cut = self._packets.cut(prefix.version, span.first, span.last) if self._cuts else 0
            except OSError as wrong:
                self._cuts = False
                text = "Live connections are closed by the workers alone."
                self._log.warning("kernel_gate_cannot_cut", error=str(wrong), text=text)
                continue
            self._log.info("kernel_gate_cut", source=prefix.text, connections=cut)

    async def _take_bans(self) -> None:
        """Put those whom the kernel banned by itself into the table."""
        now, lasts = self._clock.now(), seconds(self._policy.gate.bans.ban_time)
        for version in (4, 6):
            for element in self._packets.elements(TABLE, f"{MADE}{version}"):
                prefix = sender_prefix(version, element.key)
                if prefix in self._made:
                    continue
                since = Instant(now - max(0, lasts - element.left * 1000)) if lasts else now
                entry = Entry(prefix, since=since, note=BAN_NOTE)
                steps = entry_step(BRUTEFORCE, entry), check_limit_step(self._policy.gate.tables_max)
                try:
                    await self._database.commit(Unit(steps, (table_news(BRUTEFORCE),)))
                except NotCommitted as wrong:  # the ban holds in the kernel anyway; tried again in a second
                    self._log.warning("kernel_gate_ban_not_written", source=prefix.text, error=str(wrong))
                    return
                self._made.add(prefix)
                self._log.warning("kernel_gate_banned", source=prefix.text)


def _members(rows: Rows, file: Sequence[Entry], lasts: int) -> list[Member]:
    """Return a table's own entries; those of the database end `lasts` microseconds after they began (0: never)."""
    members = [Member(each.network, each.negated) for each in file]
    for entry in map(entry_of, rows):
        members.append(Member(entry.network, entry.negated, later(entry.since, lasts) if lasts else NEVER))
    return members


def _content(members: Sequence[Member], fed: Sequence[Networks]) -> Content:
    four, six = (flatten(members, [each.ranges(version) for each in fed], version) for version in (4, 6))
    return Content(four, six)


def _hosts(rows: Rows, trapped: bool) -> Content:
    members = [Member(parse_prefix(str(ip))) for ip, passed in rows if (passed == -1) is trapped]
    return Content(flatten(members, (), 4), flatten(members, (), 6))


def _joined(several: Sequence[Content]) -> Content:
    """Return what any of several tables holds."""
    four, six = (
        [Span(*each) for each in union([(span.first, span.last) for span in one.of(version)] for one in several)]
        for version in (4, 6)
    )
    return Content(four, six)


def _one(prefix: Prefix) -> nft.Range:
    return nft.Range(prefix.number, prefix.number)


def _whole(prefix: Prefix) -> nft.Range:
    return nft.Range(prefix.number, prefix.number + (1 << (32 if prefix.version == 4 else 128) - prefix.length) - 1)


# --- the process ----------------------------------------------------------------------------------------------


def watch(work: Callable[[], None], again: Callable[[], None], log: Log) -> int:
    """Run `work` in a child, anew whenever it dies, until SIGTERM; return the exit status.

    SIGHUP is handed on. SIGUSR2 (an upgrade) ends the child in the middle, so that rules and sets stay, and calls
    `again`, which is to exec the program anew. Capabilities are kept by whoever had them at the start.
    """
    asked: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    pause = AGAIN_S[0]
    while True:
        child, born = _fork(work, numbers, log), time.monotonic()
        while not _ended(child):
            number = signal.sigwaitinfo(numbers).si_signo
            if number in (signal.SIGTERM, signal.SIGUSR2):
                asked.append(number)
                os.kill(child, signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)
            elif number == signal.SIGHUP:
                os.kill(child, signal.SIGHUP)
        if signal.SIGTERM in asked:
            return 0
        if asked:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            again()
        log.error("kernel_gate_died", died=child)
        pause = AGAIN_S[0] if time.monotonic() - born > LIVED_WELL_S else min(pause * 2, AGAIN_S[-1])
        if signal.sigtimedwait((signal.SIGTERM,), pause) is not None:
            return 0


def _fork(work: Callable[[], None], numbers: Iterable[int], log: Log) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        die_with_parent(parent)
        name_process("kernel gate")
        work()
        status = 0
    except BaseException:
        log.exception("kernel_gate_failed")
    finally:
        os._exit(status)


def _ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] != 0
