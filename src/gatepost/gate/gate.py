"""The gate of one worker: decides at accept, holds grey and black clients, counts sources, keeps the greylist.

What decides is in memory: the address tables, the white and trapped hosts, the spamtraps. What is learnt goes to
gate.db in units that nobody waits for; other workers hear of changes by notices and read them again. The scan that
makes senders white runs in one worker (`scans`).
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from gatepost.aio.drive import Wire
from gatepost.base.clock import Clock, Instant, later, seconds
from gatepost.base.ports import Log
from gatepost.codec.mail.date import DAYS, MONTHS
from gatepost.codec.spamd.dialogue import Dialogue, Offer
from gatepost.db.unit import Database, NotCommitted, Notice, Step, Unit, Value
from gatepost.gate import sql
from gatepost.gate.decide import (
    BRUTEFORCE,
    GREYTRAP,
    LISTED,
    SPAMD,
    TABLE_NAMES,
    WHITE,
    Decision,
    Verdict,
    decide,
)
from gatepost.gate.grey import (
    NET_ROWS_MAX,
    ROWS_MAX,
    TRAPPED,
    Kind,
    first_offer,
    is_low_priority_trap,
    net,
    outside,
    source,
    trap_name,
    tuple_key,
    white_host,
)
from gatepost.gate.limits import SourceLimits
from gatepost.gate.settings import GateSettings
from gatepost.gate.table import BadEntry, Entry, Table, TableFull, Tables, parse_entry, parse_file
from gatepost.gate.tarpit import NEARLY_FULL, Held

TABLE_TOPIC: Final = "table"
GREY_TOPIC: Final = "grey"
BACKLOG_MAX: Final = 20_000
BATCH_STEPS: Final = 256
GATHER_S: Final = 0.02
TRAP_MESSAGE: Final = "Your address %A has mailed to spamtraps here\n"


class Gate:
    """See the module's words. `cut` ends every connection of a source: PF's `flush global`."""

    def __init__(
        self,
        settings: GateSettings,
        database: Database,
        *,
        hostname: str,
        clock: Clock,
        log: Log,
        cut: Callable[[str], None],
        scans: bool,
    ) -> None:
        self._database = database
        self._hostname = hostname
        self._clock = clock
        self._log = log
        self._cut = cut
        self._scans = scans
        self._started = clock.now()
        self._steps: asyncio.Queue[Step] = asyncio.Queue(BACKLOG_MAX)
        self._stale = asyncio.Event()
        self._white_seen: dict[str, int] = {}
        self._traps: frozenset[str] = frozenset()
        self.held = 0
        self.black = 0
        self.renew(settings)

    def renew(self, settings: GateSettings) -> None:
        """Take other settings; sessions that are held go on as they began. Tables keep their content."""
        self._settings = settings
        self._exempt = tuple(ip_network(each, strict=False) for each in settings.exempt)
        self._limits = {kind: SourceLimits(rate) for kind, rate in settings.rates.items()}
        self._rates = settings.rates
        old = getattr(self, "_tables", None)
        self._tables = Tables(settings.tables_max, TABLE_NAMES)
        for table in old or ():
            self._tables.replace(table.name, table)

    # --- deciding -------------------------------------------------------------------------------------------

    def decide(self, ip: str, kind: str) -> Decision:
        """Return what becomes of a new connection; asks memory only."""
        return decide(ip, kind, self, self._settings, self._exempt)

    def holds(self, table: str, version: int, whole: int) -> bool:
        """Tell whether an address, as a number, is in a table (of `decide`)."""
        return table in self._tables and self._tables[table].holds(version, whole)

    def opened(self, ip: str, kind: str) -> str:
        """Count a connection against its kind's limits; return why it must go, or nothing. Then call `closed`."""
        limits = self._limits.get(kind)
        if limits is None or any(_within(ip, network) for network in self._exempt):
            return ""
        reason = limits.opened(source(ip), self._clock.steady())
        if reason and self._rates[kind].overload:
            self._ban(ip, kind, reason)
        return reason

    def closed(self, ip: str, kind: str) -> None:
        """Count the end of a connection that `opened` was told of."""
        limits = self._limits.get(kind)
        if limits is not None and not any(_within(ip, network) for network in self._exempt):
            limits.closed(source(ip))

    # --- holding --------------------------------------------------------------------------------------------

    def hold(self, wire: Wire, decision: Decision) -> None:
        """Speak to a grey or black client; beyond the places there are, close without a word (spamd's maxcon)."""
        settings = self._settings
        if self.held >= settings.connections:
            wire.abort()
            return
        is_black = decision.verdict is Verdict.BLACK
        ip = wire.peer_ip
        messages = tuple(self._message(name) for name in decision.lists)
        dialogue = Dialogue(self._hostname, ip=ip, messages=messages, black=is_black, code=settings.refuse_code)
        self.held += 1
        self.black += is_black
        stutter = float(settings.stutter)
        if (not is_black and not settings.grey_stutter) or (is_black and self.black > settings.black_connections):
            stutter = 0.0
        session = Held(
            wire,
            dialogue,
            self,
            ip=ip,
            dialled=wire.local_ip,
            lists=decision.lists,
            stutter=stutter,
            quick_after=None if is_black else float(settings.grey_stutter),
            timeout=float(settings.timeout),
        )
        lists = f", lists: {' '.join(decision.lists)}" if decision.lists else ""
        self._log.info("gate", text=f"{ip}: connected ({self.held}/{self.black}){lists}", rule=decision.rule)
        wire.attach(session)
        session.greet(dialogue.greet(_ctime(self._clock.now())))

    def steady(self) -> float:
        """Return the clock of deadlines (House)."""
        return self._clock.steady()

    def nearly_full(self) -> bool:
        """Tell whether whole pieces are written (House)."""
        return self.held + NEARLY_FULL >= self._settings.connections

    def left(self, session: Held) -> None:
        """A held client is gone (House)."""
        self.held -= 1
        self.black -= session.black
        lasted = int(self._clock.steady() - session.began)
        lists = f" lists: {' '.join(session.lists)}" if session.lists else ""
        self._log.info("gate", text=f"{session.ip}: disconnected after {lasted} seconds.{lists}")

    def header_seen(self, session: Held, line: bytes) -> None:
        """A header line of a black client's body (House)."""
        self._log.info("gate", text=f"{session.ip}: {line.decode('utf-8', 'replace')[:200]}")

    def offered(self, session: Held, offer: Offer) -> None:
        """A tuple was offered (House): remember it, unless the client is on a list."""
        kind = "BLACK" if session.black else "GREY"
        said = f"{offer.sender.decode('utf-8', 'replace')} -> {offer.recipient.decode('utf-8', 'replace')}"
        self._log.info("gate", text=f"({kind}) {session.ip}: {said}")
        if not session.black:
            self._remember(session.ip, session.dialled, offer, self._clock.now())

    # --- learning -------------------------------------------------------------------------------------------

    def mailed_us(self, ip: str) -> None:
        """A white sender connected: its white time begins anew (spamlogd, inbound)."""
        if not any(_within(ip, network) for network in self._exempt):
            self._white_seen[source(ip)] = self._white_seen.get(source(ip), 0) + 1

    def contacted(self, ip: str) -> None:
        """We connected to a mail server: its answers are not greylisted (spamlogd, outbound)."""
        self.mailed_us(ip)

    async def start(self) -> None:
        """Read everything; raises BadEntry or TableFull for a file that cannot be used."""
        await self._read_tables()
        await self._read_hosts()
        self._database.listen(TABLE_TOPIC, lambda _: self._stale.set())
        self._database.listen(GREY_TOPIC, lambda _: self._stale.set())

    async def run(self) -> None:
        """Write what is learnt, read what others changed, scan; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._keep_fresh())
            group.create_task(self._keep_white())
            if self._scans:
                group.create_task(self._keep_scanning())

    async def scan(self, now: Instant) -> int:
        """Look the greylist through once (spamd.8): drop what expired, make white what passed; return how many."""
        rows = await self._database.read_long(sql.PASSED, {"now": now})
        steps = [Step(sql.EXPIRE, {"now": now})]
        done: set[str] = set()
        for row in rows:
            ip, network, first, passes, blocked = (str(row[0]), str(row[1]), *(int(str(each)) for each in row[2:]))
            if ip in done:
                continue
            done.add(ip)
            if self._listed(ip):
                self._log.info("gate", text=f"{ip}: blacklisted, removing from whitelist")
                steps.append(Step(sql.DROP_GREY, {"ip": ip}))
                continue
            host = white_host(ip, Instant(first), Instant(passes), blocked, now, self._settings)
            steps.append(
                put_step(host.key, host.kind, ip, network, host.first, host.passes, host.expires, blocked, 0)
            )
        count = (await self._database.read_long(sql.COUNT, {}))[0][0]
        if isinstance(count, int) and count > ROWS_MAX:
            steps.append(Step(sql.CAP, {"now": now, "count": count - ROWS_MAX}))
        await self._database.commit(Unit(tuple(steps), (Notice(GREY_TOPIC),)))
        return len(done)

    # --- private --------------------------------------------------------------------------------------------

    def _remember(self, ip: str, dialled: str, offer: Offer, now: Instant) -> None:
        settings, who = self._settings, source(ip)
        name = trap_name(offer.recipient)
        trap = (
            outside(name, settings.trap_domains)
            or name in self._traps
            or is_low_priority_trap(dialled, self._started, now, settings)
        )
        key = tuple_key(who, offer.helo, offer.sender, offer.recipient)
        record = first_offer(key, who, now, settings, trap=trap)
        step = Step(
            sql.SEEN,
            {
                "key": record.key,
                "kind": record.kind.value,
                "ip": who,
                "net": net(who),
                "now": now,
                "expire": record.expires,
                "passed": record.passed,
                "pass_time": seconds(settings.pass_time),
                "net_max": NET_ROWS_MAX,
            },
        )
        self._later(step)

    def _later(self, step: Step) -> None:
        try:
            self._steps.put_nowait(step)
        except asyncio.QueueFull:
            self._log.warning("gate_backlog_full", waiting=BACKLOG_MAX)

    def _ban(self, ip: str, kind: str, reason: str) -> None:
        who, now, name = source(ip), self._clock.now(), self._rates[kind].overload
        entry = parse_entry(who, now)
        if name not in self._tables or not self._tables[name].add(entry):
            return
        self._log.warning("gate_banned", ip=ip, listener=kind, table=name, reason=reason)
        self._later(entry_step(name, entry))
        self._cut(who)

    def _listed(self, ip: str) -> bool:
        address = ip_network(ip).network_address
        return any(self.holds(name, address.version, int(address)) for name in (LISTED, SPAMD, BRUTEFORCE))

    def _message(self, table: str) -> str:
        if table == GREYTRAP:
            return TRAP_MESSAGE
        return self._settings.messages.get(table, "")

    async def _write(self) -> None:
        while True:
            steps = [await self._steps.get()]
            await asyncio.sleep(GATHER_S)
            while len(steps) < BATCH_STEPS and not self._steps.empty():
                steps.append(self._steps.get_nowait())
            notices = (Notice(TABLE_TOPIC),) if any(step.statement is sql.ADD_ENTRY for step in steps) else ()
            await self._commit(steps, notices)

    async def _commit(self, steps: Sequence[Step], notices: tuple[Notice, ...]) -> None:
        try:
            await self._database.commit(Unit(tuple(steps), notices))
        except NotCommitted as error:
            self._log.warning("gate_not_written", steps=len(steps), error=str(error))

    async def _keep_fresh(self) -> None:
        while True:
            await self._stale.wait()
            await asyncio.sleep(0.05)
            self._stale.clear()
            try:
                await self._read_tables()
            except (BadEntry, TableFull, OSError) as wrong:
                self._log.error("gate_table_kept", error=str(wrong))
            await self._read_hosts()

    async def _keep_white(self) -> None:
        while True:
            await asyncio.sleep(1)
            seen, self._white_seen = self._white_seen, {}
            expire = later(self._clock.now(), seconds(self._settings.white_time))
            now = self._clock.now()
            for ip, times in seen.items():
                params: dict[str, Value] = {
                    "key": ip.encode(),
                    "ip": ip,
                    "net": net(ip),
                    "now": now,
                    "expire": expire,
                    "times": times,
                }
                self._later(Step(sql.WHITEN, params))

    async def _keep_scanning(self) -> None:
        while True:
            try:
                await self.scan(self._clock.now())
            except NotCommitted as error:
                self._log.warning("gate_not_scanned", error=str(error))
            await asyncio.sleep(self._settings.scan_interval)

    async def _read_tables(self) -> None:
        """Fill the tables anew from their files and the database; the files are read off the loop."""
        fresh: dict[str, list[Entry]] = {name: [] for name in (*TABLE_NAMES, *self._settings.tables)}
        for name, path in self._settings.tables.items():
            text = await asyncio.to_thread(Path(path).read_text, "utf-8")
            try:
                fresh[name] += parse_file(text)
            except BadEntry as wrong:
                raise BadEntry(f"{path}: {wrong}") from wrong
        for row in await self._database.read_long(sql.ENTRIES, {}):
            fresh.setdefault(str(row[0]), []).append(entry_of(str(row[1]), bool(row[2]), int(str(row[3]))))
        for name, entries in fresh.items():
            if name not in (WHITE, GREYTRAP) or entries:
                self._tables.replace(name, entries)

    async def _read_hosts(self) -> None:
        """Replace the white and the trapped hosts, wholly, as spamd replaces its tables."""
        now = self._clock.now()
        white, trapped = Table(WHITE), Table(GREYTRAP)
        for row in await self._database.read_long(sql.HOSTS, {"now": now}):
            (trapped if row[1] == TRAPPED else white).add(parse_entry(str(row[0]), now))
        self._tables.replace(WHITE, white)
        self._tables.replace(GREYTRAP, trapped)
        rows = await self._database.read_long(sql.TRAPS, {})
        self._traps = frozenset(row[0].decode("utf-8", "replace") for row in rows if isinstance(row[0], bytes))


def put_step(
    key: bytes, kind: Kind, ip: str, network: str, first: int, passes: int, expires: int, blocked: int, passed: int
) -> Step:
    return Step(
        sql.PUT,
        {
            "key": key,
            "kind": kind.value,
            "ip": ip,
            "net": network,
            "first": first,
            "pass": passes,
            "expire": expires,
            "blocked": blocked,
            "passed": passed,
        },
    )


def entry_step(table: str, entry: Entry) -> Step:
    params: dict[str, Value] = {
        "tbl": table,
        "network": str(entry.network),
        "negated": int(entry.negated),
        "since": entry.since,
    }
    return Step(sql.ADD_ENTRY, params)


def entry_of(network: str, negated: bool, since: int) -> Entry:
    return Entry(ip_network(network), negated, Instant(since))


def _within(ip: str, network: object) -> bool:
    address = ip_network(ip).network_address
    return getattr(network, "version", 0) == address.version and address in network  # type: ignore[operator]


def _ctime(now: Instant) -> str:
    """Return the banner's date in ctime's form, UTC: `Wed Jun  3 21:49:08 2015`."""
    at = datetime.fromtimestamp(now / 1_000_000, UTC)
    return f"{DAYS[at.weekday()]} {MONTHS[at.month - 1]} {at.day:>2} {at:%H:%M:%S} {at.year}"
