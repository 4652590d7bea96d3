"""The gate of one worker: decides at accept, holds grey and black clients, counts sources, keeps the greylist.

What decides is in memory: the address tables, the white and trapped hosts, the spamtraps. What is learnt goes to
gate.db in units that nobody waits for (`backlog`); other workers hear of changes by notices and read them again.
The scan that makes senders white runs in one worker (`scans`).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from gatepost.base.address import Address, ReversePath
from gatepost.base.clock import MICROSECONDS, Clock, Instant, later
from gatepost.base.envelope import Client
from gatepost.base.ports import Log, News, Nobody
from gatepost.base.verdict import Finding
from gatepost.codec.mail.date import DAYS, MONTHS
from gatepost.codec.spamd.dialogue import Body, Dialogue, Header, Offer
from gatepost.db.unit import Database, NotCommitted, Step, Value
from gatepost.gate import sql
from gatepost.gate.backlog import Backlog
from gatepost.gate.bans import Ban, touches
from gatepost.gate.contents import Contents
from gatepost.gate.decide import (
    BLACK_TABLES,
    GREYTRAP,
    MX,
    NOSPAMD,
    WHITE,
    Decision,
    Look,
    Verdict,
    explain,
)
from gatepost.gate.dnslists import DnsLists, Opinion
from gatepost.gate.friendly import PASSES, Friendly, Say, Standing
from gatepost.gate.grey import (
    Record,
    digest,
    first_at_low_priority,
    first_offer,
    net,
    outside,
    source,
    trap_name,
    tuple_key,
)
from gatepost.gate.limits import SourceLimits
from gatepost.gate.networks import Networks
from gatepost.gate.parts import Part
from gatepost.gate.pfconf.lex import PfConfError
from gatepost.gate.pfconf.rules import PORTS, Ruling
from gatepost.gate.pflog import PfLog
from gatepost.gate.prefix import Prefix, number_of, sender_prefix, senders_within
from gatepost.gate.scan import read_hosts, scan
from gatepost.gate.settings import GateSettings, Ipv6, Mode, TooEarlyAction
from gatepost.gate.steps import (
    GREY_NEWS,
    GREY_TOPIC,
    TABLE_TOPIC,
    check_limit_step,
    entry_step,
    heard_step,
    low_priority_steps,
    offer_step,
    put_step,
    table_key,
    table_news,
    whiten_step,
)
from gatepost.gate.table import BadEntry, Entry, TableFull
from gatepost.gate.tarpit import NEARLY_FULL, Connection, Contexts, Held, Stance
from gatepost.judge import spf

TRAP_MESSAGE: Final = "Your address %A has mailed to spamtraps here\n"
LISTS_TEXT_MAX: Final = 76  # spamd.c, loglists
FRESH_S: Final = 0.05
WHITE_S: Final = 1.0
COUNTS_S: Final = 10.0
STUMBLE_S: Final = 1.0


@dataclass(slots=True)
class Counts:
    """What the gate did since its start; `held`, `black` and `waiting` are of now."""

    held: int = 0
    black: int = 0
    taken: int = 0
    """Connections held, in all."""
    turned_away: int = 0
    """Connections closed without a word: all places, or those of the source, were taken."""
    offers: int = 0
    deferred: int = 0
    """Recipients that friendly mode put off."""
    trap_hits: int = 0
    too_early: int = 0
    banned: int = 0
    promoted: int = 0
    waiting: int = 0
    forgotten: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a connection is decided as it is: the rules in their order, and the entries that hold the address."""

    decision: Decision
    looks: tuple[Look, ...]
    entries: tuple[tuple[str, str], ...]
    """(table, entry) of every table whose best match it is, holes with `!`."""


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
        cut: Callable[[Prefix], None],
        scans: bool,
        names: spf.Names | None = None,
        dns_lists: DnsLists | None = None,
        news: News | None = None,
        certificates: Contexts | None = None,
    ) -> None:
        """Make it; `names` is the DNS that says who a sender is, `news` who hears what is learnt,
        `certificates` are those that STARTTLS in the tarpit shows."""
        self._database = database
        self._hostname = hostname
        self._clock = clock
        self._log = log
        self._cut = cut
        self._scans = scans
        self._started = clock.now()
        self._backlog = Backlog(database, log, settings)
        self._news: News = news or Nobody()
        self._dns_lists = dns_lists
        self._certificates = certificates
        self._friendly = Friendly(settings.friendly, database, self._backlog, names, self._news)
        self._contents = Contents(settings, database, clock, self._heard_of_table)
        self._tables = self._contents.tables
        self._pflog = PfLog(settings.connection_log, clock=clock, log=log)
        self._spamtraps: frozenset[str] = frozenset()
        self._limits: dict[str, SourceLimits] = {}
        self._held: dict[str, set[Held]] = {}
        self._mailed: dict[str, int] = {}
        self._stale = asyncio.Event()
        self._stale_tables: set[int] = set()
        self._stale_hosts = False
        self._listens = self._loaded = False
        self._counts = Counts()
        self.renew(settings)

    def renew(self, settings: GateSettings) -> None:
        """Take other settings; held sessions go on as they began, tables keep their content. Then `start` again."""
        self._settings = self._backlog.settings = settings
        self._friendly.settings = settings.friendly
        self._pflog.renew(settings.connection_log)
        if self._dns_lists is not None:
            self._dns_lists.renew(settings.dns)
        self._contents.renew(settings)
        old = self._limits
        self._limits = {
            kind: old[kind] if kind in old and old[kind].settings == rate else SourceLimits(rate, rate.total)
            for kind, rate in settings.rates.items()
        }

    # --- deciding -------------------------------------------------------------------------------------------

    def decide(self, ip: str, kind: str) -> Decision:
        """Return what becomes of a new connection, and count it; asks memory only."""
        version, number = number_of(ip)
        decision = self._contents.plan(kind).decide(version, number)
        if decision.lists:
            for name in decision.lists:
                self._tables[name].count(version, number, passed=decision.verdict is Verdict.PASS)
        return decision

    def holds(self, table: str, version: int, number: int) -> bool:
        """Tell whether an address, as a number, is in a table."""
        return self._contents.holds(table, version, number)

    @property
    def lists(self) -> Sequence[str]:
        """spamd's lists in their order, but that of its traps."""
        return self._contents.lists

    def tarpits(self, decision: Decision) -> bool:
        """Tell whether a client is held; a grey one of friendly mode speaks with the mail server."""
        return decision.verdict is Verdict.BLACK or (
            decision.verdict is Verdict.GREY and self._settings.mode is Mode.SPAMD
        )

    def asks_lists(self, decision: Decision, kind: str) -> bool:
        """Tell whether the DNS lists are asked about a client: one that no table knows, on port 25."""
        wanted = self._dns_lists is not None and self._dns_lists.wanted
        return wanted and decision.verdict is Verdict.GREY and kind == MX

    async def look_up(self, ip: str, decision: Decision) -> Decision:
        """Ask the DNS lists about a client; return what becomes of it then."""
        assert self._dns_lists is not None
        score = await self._dns_lists.ask(ip)
        match score.opinion:
            case Opinion.BLACK:
                hits = [hit for hit in score.hits if hit.weight > 0]
                messages = tuple(f"Your address %A is listed by {hit.zone}. {_plain(hit.text)}\n" for hit in hits)
                return Decision(
                    Verdict.BLACK, f"dns lists: {score.lists}", tuple(hit.zone for hit in hits), messages
                )
            case Opinion.WHITE:
                return Decision(Verdict.PASS, f"dns lists: {score.lists}")
            case Opinion.NONE:
                return decision

    def explain(self, ip: str, kind: str) -> Explanation:
        """Say why a connection is decided as it is."""
        matches = ((table.name, table.match(ip)) for table in self._tables)
        entries = tuple((name, ("!" if match.negated else "") + match.text) for name, match in matches if match)
        decision, settings = self._contents.plan(kind).decide(*number_of(ip)), self._settings
        if self._contents.rules is None or kind not in PORTS or self._is_exempt(ip):
            return Explanation(decision, explain(ip, kind, self, settings, self._contents.exempt), entries)
        looks = self._contents.rules.explain(
            *number_of(ip),
            PORTS[kind],
            self.holds,
            settings.unlisted_ipv6,
            lists=self._contents.lists,
            greylist=settings.greylist,
        )
        return Explanation(decision, looks, entries)

    def opened(self, ip: str, kind: str, decision: Decision | None = None) -> str:
        """Count a connection against the limits of the rule that let it pass, or of its kind of listener.

        Returns why it must go, or nothing. Then call `closed`.
        """
        limits = self._limits_of(kind, decision)
        if limits is None or self._is_exempt(ip):
            return ""
        reason = limits.opened(source(ip), self._clock.steady())
        if reason and limits.settings.overload and not limits.full:
            ruled = decision.limits if isinstance(decision, Ruling) else None
            cut = ruled is None or ruled.flush  # `flush` alone ends more here than its own rule's connections
            sender = sender_prefix(*number_of(ip))
            self.ban(Ban(sender, limits.settings.overload, f"{kind}: {reason}", cut))
        return reason

    def _limits_of(self, kind: str, decision: Decision | None) -> SourceLimits | None:
        if self._contents.rules is None:
            return self._limits.get(kind)
        ruled = decision.limits if isinstance(decision, Ruling) else None
        if ruled is None or not ruled.any:
            return None
        assert isinstance(decision, Ruling)
        key = f"line {decision.line} {kind}"  # a list of ports stands for a rule each
        found = self._limits.get(key)
        if found is None:
            found = self._limits[key] = SourceLimits(ruled.rate, ruled.total)
        return found

    def shields(self, prefix: Prefix) -> bool:
        """Tell whether a network holds somebody who is never banned: exempt, one of our own, or in nospamd."""
        return any(touches(prefix, each) for each in self._contents.exempt) or self._tables[NOSPAMD].touches(prefix)

    def ban(self, ban: Ban) -> None:
        """Put a network into a table, and end its connections (PF's `overload <t> flush global`).

        Whom we shield is never banned: PF would.
        """
        if self.shields(ban.prefix):
            return
        entry = Entry(ban.prefix, since=self._clock.now(), note=ban.reason)
        if ban.table not in self._tables or ban.prefix in self._tables[ban.table]:
            return
        try:
            self._contents.ban(ban.table, entry)
        except TableFull as full:
            self._log.error("gate_table_full", table=ban.table, error=str(full))
            return
        self._counts.banned += 1
        self._log.warning("gate_banned", network=ban.prefix.text, table=ban.table, reason=ban.reason)
        steps = entry_step(ban.table, entry), check_limit_step(self._settings.tables_max)
        self._backlog.commit(steps, table_news(ban.table))
        if ban.cut:
            self._flush_global(ban.prefix)

    def closed(self, ip: str, kind: str, decision: Decision | None = None) -> None:
        """Count the end of a connection that `opened` was told of."""
        limits = self._limits_of(kind, decision)
        if limits is not None and not self._is_exempt(ip):
            limits.closed(source(ip))

    # --- holding --------------------------------------------------------------------------------------------

    def hold(self, wire: Connection, decision: Decision) -> None:
        """Speak to a grey or black client; beyond the places there are, close without a word (spamd's maxcon)."""
        settings, ip = self._settings, wire.peer_ip
        sender = source(ip)
        if not self._has_place(ip, sender):
            self._counts.turned_away += 1
            wire.close()
            return
        is_black = decision.verdict is Verdict.BLACK
        self._counts.held += 1
        self._counts.black += is_black
        self._counts.taken += 1
        session = Held(
            wire,
            Dialogue(
                self._hostname,
                ip=ip,
                messages=decision.messages or [self._message(name) for name in decision.lists],
                black=is_black,
                code=settings.refuse_code,
                starttls=settings.starttls and self._certificates is not None,
                sinks=not settings.greylist,
            ),
            self,
            ip=ip,
            sender=sender,
            dialled=wire.local_ip,
            lists=decision.lists,
            stutter=self._stutter(is_black=is_black),
            grey_stutter=settings.quick(settings.grey_stutter) if settings.greylist else math.inf,
            timeout=settings.quick(settings.timeout),
            tls=self._certificates,
        )
        self._held.setdefault(sender, set()).add(session)
        lists = f", lists:{lists_text(decision.lists)}" if decision.lists else ""
        told = f"{ip}: connected ({self._counts.held}/{self._counts.black}){lists}"
        self._log.info("gate", text=told, rule=decision.rule)
        wire.attach(session)
        session.begin(session.banner(ctime(self._clock.now()), settings.banner))

    def counts(self) -> Counts:
        """Return the counters."""
        self._counts.waiting, self._counts.forgotten = len(self._backlog), self._backlog.forgotten
        return self._counts

    def sizes(self) -> Mapping[str, int]:
        """Return how many entries each table has."""
        return self._tables.sizes()

    # What held sessions ask (tarpit.House)

    def steady(self) -> float:
        """Return the clock of deadlines."""
        return self._clock.steady()

    def soon(self, delay: float, call: Callable[[], None]) -> None:
        """Call back after a delay finer than the wheel's."""
        asyncio.get_running_loop().call_later(delay, call)

    def nearly_full(self) -> bool:
        """Tell whether whole pieces are written."""
        return self._counts.held + NEARLY_FULL >= self._settings.connections

    def offered(self, session: Held, offer: Offer) -> None:
        """A tuple was offered: remember it, unless the client is on a list or gave itself away."""
        black = session.stance is Stance.BLACK
        self._tell(session, f"({'BLACK' if black else 'GREY'}) {session.ip}: ", offer.sender, offer.recipient)
        if session.stance is Stance.GREY and self._settings.greylist:  # spamd -b has no greylist
            self._remember(session.sender, session.dialled, offer, self._clock.now())

    def overheard(self, session: Held, event: Header | Body) -> None:
        """A black client sent a line of its mail."""
        lead = "" if isinstance(event, Header) else "Body: "
        self._tell(session, f"{session.ip}: {lead}", event.line, debug=isinstance(event, Body))

    def too_early(self, session: Held) -> None:
        """A client spoke before its banner was said."""
        self._counts.too_early += 1
        action = self._settings.too_early
        if session.stance is not Stance.GREY or action is TooEarlyAction.IGNORE:
            return
        session.stance = Stance.SUSPECT
        if action is TooEarlyAction.REFUSE:
            session.refuse()
        self._log.info("gate", text=f"{session.ip}: spoke before its banner", action=action.value)

    def left(self, session: Held) -> None:
        """A held client is gone."""
        self._counts.held -= 1
        self._counts.black -= session.stance is Stance.BLACK
        held = self._held.get(session.sender, set())
        held.discard(session)
        if not held:
            self._held.pop(session.sender, None)
        lasted = int(self._clock.steady() - session.began)
        lists = f" lists:{lists_text(session.lists)}" if session.lists else ""
        self._log.info("gate", text=f"{session.ip}: disconnected after {lasted} seconds.{lists}")

    # --- learning -------------------------------------------------------------------------------------------

    def mailed_us(self, ip: str) -> None:
        """A white sender connected on port 25: its white time begins anew (spamlogd, inbound)."""
        version, number = number_of(ip)
        if version == 6 and self._settings.unlisted_ipv6 is not Ipv6.GREYLIST:
            return
        if not any(network.holds(version, number) for network in self._contents.exempt):
            sender = sender_prefix(version, number).text
            self._mailed[sender] = self._mailed.get(sender, 0) + 1

    def let_in(self, ip: str, dialled: str, port: int, decision: Decision) -> None:
        """A connection to port 25 reached the mail server: spamlogd hears of it, if its rule is one that logs."""
        logs = bool(decision.log) if isinstance(decision, Ruling) else bool(decision.lists)
        if logs:
            self._pflog.passed(ip, dialled, port, decision.rule)
            self.mailed_us(ip)

    def contacted(self, ip: str) -> None:
        """We connect to a mail server: its answers are not greylisted (spamlogd, outbound)."""
        if self._contents.rules is None or self._contents.rules.contact_log:
            self._pflog.contacted(ip)
            self.mailed_us(ip)

    # Friendly mode, asked by the intake

    async def recipient(
        self, client: Client, sender: ReversePath, recipient: Address, accounts: Sequence[int], now: Instant
    ) -> Standing:
        """Say what becomes of a recipient of a stranger's mail; raises Unhealthy.

        `accounts`: those whose mailboxes it leads to. An attempt that is put off is remembered.
        """
        if self._settings.mode is not Mode.FRIENDLY:
            return PASSES
        decision = self._contents.plan(MX).decide(*number_of(client.ip))
        if decision.verdict is not Verdict.GREY:
            return PASSES
        score = self._dns_lists.known(client.ip) if self._dns_lists is not None else None
        if score is not None and score.opinion is Opinion.WHITE:
            return PASSES
        name = trap_name(str(recipient).encode())
        if outside(name, self._settings.trap_domains) or name in self._spamtraps:
            return self._trap(client.ip, now)
        answer = await self._friendly.ask(client, sender, recipient, accounts, now, self._contents.announced)
        if answer.say is Say.DEFER:
            self._counts.deferred += 1
            self._friendly.deferred(answer, client)
        return answer

    def excused(self, answers: Sequence[Standing], findings: Sequence[Finding], client: Client) -> bool:
        """Tell whether the content excuses what RCPT left open; what it does not is remembered as an attempt."""
        if self._friendly.excused(answers, findings):
            return True
        for answer in answers:
            if answer.say is Say.CONTENT:
                self._counts.deferred += 1
                self._friendly.deferred(answer, client)
        return False

    def accepted(self, answers: Sequence[Standing], findings: Sequence[Finding]) -> None:
        """A stranger's mail was accepted: what the gate said of its recipients is remembered well."""
        self._friendly.accepted(answers, findings)

    def wrote(self, recipients: Sequence[Address]) -> None:
        """Our users wrote to these: their answers do not wait."""
        self._friendly.wrote(recipients)

    # What peers tell; never told on

    def heard_grey(self, ip: str, helo: bytes, sender: bytes, recipient: bytes) -> None:
        """A peer was offered a tuple (spamd's sync): the same as if we were, by our clock and our traps."""
        now, who = self._clock.now(), source(ip)
        self._learn_offer(who, tuple_key(who, helo, sender, recipient), self._is_trap(recipient), now)

    def heard_white(self, ip: str, expires: Instant) -> None:
        """A peer knows a host to be white (spamlogd's sync)."""
        now = self._clock.now()
        if expires > now:
            self._backlog.commit((heard_step(sql.HEARD_WHITE, source(ip), expires, now),), GREY_NEWS)

    def heard_trapped(self, ip: str, expires: Instant) -> None:
        """A peer trapped a host."""
        now = self._clock.now()
        if expires > now:
            self._backlog.commit((heard_step(sql.HEARD_TRAPPED, source(ip), expires, now),), GREY_NEWS)

    def merge(self, records: Sequence[Record]) -> None:
        """Put peers' records beside ours (our own sync); those that ended are left."""
        now = self._clock.now()
        steps = [put_step(each, now, sql.MERGE) for each in records if each.expires > now]
        if steps:
            self._backlog.commit(steps, GREY_NEWS)

    # What feeds give

    async def publish(self, table: str, source: str, networks: Networks, *, message: str | None = None) -> None:
        """Give the part of a table that a source owns exactly these networks: `Contents.publish`."""
        await self._contents.publish(table, source, networks, message=message)

    async def unpublish(self, table: str, source: str) -> None:
        """Take a source's part out of a table; raises NotCommitted."""
        await self._contents.unpublish(table, source)

    async def published(self) -> list[Part]:
        """Return what feeds gave."""
        return await self._contents.published()

    async def start(self) -> None:
        """Read everything, again after `renew`.

        Raises BadEntry, TableFull, OSError or PfConfError for a file that cannot be used.
        """
        if not self._listens:
            self._listens = True
            self._database.listen(TABLE_TOPIC, self._heard_of_table)
            self._database.listen(GREY_TOPIC, self._heard_of_hosts)
        await self._contents.load(self._clock.now())
        await self._read_hosts()
        self._loaded = True

    async def reload(self, settings: GateSettings) -> None:
        """Take other settings and read everything; raises as `start` does, and then goes on with the old ones."""
        old = self._settings
        try:
            self.renew(settings)
            await self.start()
        except (BadEntry, TableFull, OSError, PfConfError):
            self.renew(old)
            await self._contents.read_all()
            raise

    async def run(self) -> None:
        """Write what is learnt, read what others changed, scan; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._backlog.run())
            group.create_task(self._pflog.run())
            group.create_task(self._ever(FRESH_S, self.refresh, self._stale.wait))
            group.create_task(self._ever(WHITE_S, self._learn_mailed))
            group.create_task(self._ever(COUNTS_S, self._learn_counts))
            if self._scans:
                group.create_task(self._keep_scanning())

    async def scan(self, now: Instant) -> int:
        """Look the greylist through once; return how many hosts became white. Raises NotCommitted."""
        found = await scan(self._database, self._settings, self._is_listed, now)
        for ip in found.unlisted:
            self._log.info("gate", text=f"{ip}: blacklisted, removing from whitelist")
        self._counts.promoted += len(found.promoted)
        return len(found.promoted)

    async def flush(self) -> None:
        """Write what was learnt, now."""
        await self._learn_mailed()
        await self._backlog.write(once=True)
        await self._pflog.flush()

    async def refresh(self) -> None:
        """Read what others changed."""
        self._stale.clear()
        keys, self._stale_tables = self._stale_tables, set()
        hosts, self._stale_hosts = self._stale_hosts, False
        if keys:
            for name in await self._contents.names():
                if table_key(name) in keys:
                    await self._read_table(name)
        if hosts:
            await self._read_hosts()

    # --- private --------------------------------------------------------------------------------------------

    def _is_exempt(self, ip: str) -> bool:
        version, number = number_of(ip)
        return any(network.holds(version, number) for network in self._contents.exempt)

    def _is_listed(self, version: int, number: int) -> bool:
        return any(self.holds(name, version, number) for name in (*BLACK_TABLES, *self._contents.lists))

    def _has_place(self, ip: str, sender: str) -> bool:
        settings = self._settings
        if self._counts.held >= settings.connections:
            return False
        if not settings.source_connections or self._is_exempt(ip):
            return True
        return len(self._held.get(sender, ())) < settings.source_connections

    def _stutter(self, *, is_black: bool) -> float:
        settings = self._settings
        if settings.greylist and not settings.grey_stutter and not is_black:
            return 0.0
        if is_black and self._counts.black > settings.black_places:
            return 0.0
        return settings.quick(settings.stutter)

    def _message(self, table: str) -> str:
        default = TRAP_MESSAGE if table == GREYTRAP else self._contents.messages.get(table, "")
        return self._settings.messages.get(table, default)

    def _tell(self, session: Held, lead: str, *words: bytes, debug: bool = False) -> None:
        if self._settings.verbose:
            text = lead + " -> ".join(printable(word) for word in words)
            (self._log.debug if debug else self._log.info)("gate", text=text)

    def _remember(self, sender: str, dialled: str, offer: Offer, now: Instant) -> None:
        settings = self._settings
        trap = self._is_trap(offer.recipient)
        key = tuple_key(sender, offer.helo, offer.sender, offer.recipient)
        self._counts.offers += 1
        self._counts.trap_hits += trap
        if not trap and first_at_low_priority(dialled, self._started, now, settings):
            host = first_offer(key, sender, now, settings, trap=True)
            self._backlog.learn(*low_priority_steps(key, host, now, settings))
        else:
            self._learn_offer(sender, key, trap, now)
        if trap:
            self._news.trapped(sender, later(now, settings.micro(settings.trap_time)))
        else:
            self._news.grey(sender, offer.helo, offer.sender, offer.recipient)
        self._news.changed(digest(sender.encode() if trap else key))

    def _is_trap(self, recipient: bytes) -> bool:
        name = trap_name(recipient)
        return outside(name, self._settings.trap_domains) or name in self._spamtraps

    def _learn_offer(self, sender: str, key: bytes, trap: bool, now: Instant) -> None:
        fresh, network = first_offer(key, sender, now, self._settings, trap=trap), net(sender)
        self._backlog.learn(offer_step(fresh, now, self._settings.micro(self._settings.pass_time), network))
        self._backlog.offered(network)

    def _trap(self, ip: str, now: Instant) -> Standing:
        """Friendly mode: a client wrote to a spamtrap."""
        sender, settings = source(ip), self._settings
        self._counts.trap_hits += 1
        self._learn_offer(sender, sender.encode(), True, now)
        self._news.trapped(sender, later(now, settings.micro(settings.trap_time)))
        self._news.changed(digest(sender.encode()))
        return Standing(Say.DEFER, "wrote to a spamtrap", wait=settings.friendly.pass_time)

    def _flush_global(self, network: Prefix) -> None:
        """End every connection of a network, held or served."""
        for sender in senders_within(network, self._held):
            for session in tuple(self._held[sender]):
                session.cut_off()
        self._cut(network)

    def _heard_of_table(self, key: int) -> None:
        self._stale_tables.add(key)
        self._stale.set()

    def _heard_of_hosts(self, _: int) -> None:
        self._stale_hosts = True
        self._stale.set()

    async def _read_table(self, name: str) -> None:
        """Read a table that somebody changed; whom another worker's limits banned is cut here too."""
        banned = await self._contents.read(name)
        if self._loaded and name in {rate.overload for rate in self._settings.rates.values()}:
            for sender in banned:
                self._flush_global(sender)

    async def _read_hosts(self) -> None:
        """Replace the white and the trapped hosts, wholly, as spamd replaces its tables."""
        hosts = await read_hosts(self._database, self._clock.now())
        self._spamtraps = hosts.spamtraps
        self._tables.replace(hosts.trapped)
        self._tables.replace(hosts.white)

    async def _learn_mailed(self) -> None:
        mailed, self._mailed = self._mailed, {}
        now = self._clock.now()
        expires = later(now, self._settings.micro(self._settings.white_time))
        for sender, times in mailed.items():
            self._backlog.learn(whiten_step(sender, times, now, self._settings))
            self._news.white(sender, expires)
            self._news.changed(digest(sender.encode()))
        self._friendly.learn_lasting(now)

    async def _learn_counts(self) -> None:
        for table in self._tables:
            for network, (blocked, passed) in table.take_counts().items():
                if table.name not in (WHITE, GREYTRAP):
                    params: dict[str, Value] = {"tbl": table.name, "network": network.text}
                    self._backlog.learn(Step(sql.COUNT_HITS, params | {"blocked": blocked, "passed": passed}))

    async def _keep_scanning(self) -> None:
        async def look() -> None:
            await self.scan(self._clock.now())

        while True:
            await self._survive(look)
            await asyncio.sleep(self._settings.quick(self._settings.scan_interval))

    async def _ever(
        self,
        pause: float,
        work: Callable[[], Awaitable[None]],
        wanted: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Do `work` for ever, each time `pause` after it is wanted."""
        while True:
            if wanted is not None:
                await wanted()
            await asyncio.sleep(pause)
            await self._survive(work)

    async def _survive(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` once; the gate goes on when it fails, with what it knew before."""
        try:
            await work()
        except (NotCommitted, BadEntry, TableFull, OSError) as error:
            self._log.error("gate_work_failed", work=work.__name__, error=str(error))
        except Exception:
            self._log.exception("gate_work_failed", work=work.__name__)
            await asyncio.sleep(STUMBLE_S)


def lists_text(names: Sequence[str]) -> str:
    """Return lists' names for the log, each with a blank before it; what is too long is ` ...`."""
    text = ""
    for name in names:
        if len(text) + len(name) + 1 >= LISTS_TEXT_MAX:
            return text + " ..."
        text += f" {name}"
    return text


def _plain(text: str) -> str:
    """Return text in which nothing is spamd's escape."""
    return text.replace("\\", "\\\\").replace("%", "%%")


def printable(octets: bytes) -> str:
    """Return what a client sent as text that cannot command a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in octets.decode("utf-8", "replace")[:1023])


def ctime(now: Instant) -> str:
    """Return a date in ctime's form, UTC: `Wed Jun  3 21:49:08 2015`."""
    return _ctime(now // MICROSECONDS)


@lru_cache(maxsize=4)
def _ctime(second: int) -> str:
    at = datetime.fromtimestamp(second, UTC)
    return f"{DAYS[at.weekday()]} {MONTHS[at.month - 1]} {at.day:>2} {at:%H:%M:%S} {at.year}"
