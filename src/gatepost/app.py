"""Assembly: the one place that builds. `Worker` is a whole server but for its databases and sockets.

Everything is handed in and bound here; nothing below knows of it. A worker runs every listener on one loop, the
queue's worker beside them, and in slot 0 the jobs that one process does for all (the greylist's scan, sweeps).
"""

import asyncio
import fcntl
import os
import random
import resource
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from gatepost.accounts.directory import Directory
from gatepost.accounts.password import Hasher
from gatepost.aio.clock import SystemClock
from gatepost.aio.drive import Wire
from gatepost.aio.fetch import post
from gatepost.aio.listen import BATCH, Limits, Listener
from gatepost.aio.resolve import Resolver, system_servers
from gatepost.aio.tls import Clients, Pair, TlsHolder, TlsUnusable, client_context, self_signed, write_pair
from gatepost.allowance.allowance import Allowance
from gatepost.backupmx.callahead import CallAhead
from gatepost.backupmx.join import PATH as JOIN_PATH
from gatepost.backupmx.join import Doorman
from gatepost.backupmx.joined import folder_of as backups_folder
from gatepost.backupmx.kept import Kept, KeyUnusable, read_key
from gatepost.backupmx.kept import folder_of as kept_folder
from gatepost.backupmx.known import KnownRecipients
from gatepost.backupmx.publish import Publisher, accounts_decide
from gatepost.backupmx.pull import PATH as RECIPIENTS_PATH
from gatepost.backupmx.pull import Puller
from gatepost.base.clock import Clock, Instant
from gatepost.base.envelope import Envelope
from gatepost.base.ids import MailId, Minter
from gatepost.base.ports import Log
from gatepost.blobs.bodies import Blobs
from gatepost.blobs.known import admit
from gatepost.blobs.spool import Spool, SpoolBudget
from gatepost.codec.mail.header import HeaderBlock
from gatepost.codec.recipients import Keys
from gatepost.config import PORTS, ClientCertificates, Config, Kind, Role, bound, split_address
from gatepost.databases import Databases
from gatepost.db.unit import NotCommitted
from gatepost.diary.refused.counts import Refusals
from gatepost.diary.refused.counts import sweep as sweep_refusals
from gatepost.diary.verbs import sweep as sweep_diary
from gatepost.dmarcrpt.results import Results as DmarcResults
from gatepost.dmarcrpt.results import sweep as sweep_dmarc_results
from gatepost.feeds.bgp.service import BgpService
from gatepost.feeds.lists.feed import ListFeed
from gatepost.feeds.lists.stored import StoredTables
from gatepost.feeds.sync.feed import Sync
from gatepost.gate.bans import Doorkeeper
from gatepost.gate.decide import Decision, Verdict
from gatepost.gate.dnslists import DnsLists
from gatepost.gate.gate import Gate
from gatepost.gate.grey import source
from gatepost.gate.networks import Networks
from gatepost.gate.prefix import Prefix, number_of, parse_prefix, senders_within
from gatepost.gate.redirect import redirected
from gatepost.gate.release import keep_releasing
from gatepost.gate.settings import GateSettings
from gatepost.gate.tarpit import places
from gatepost.intake import lmtp, local, mx, offline, submission
from gatepost.intake import ports as intake
from gatepost.intake.auth import Throttle
from gatepost.judge.content import SimpleScanner
from gatepost.judge.judge import Judge, raw_fields
from gatepost.judge.keys import KeyFile, StoredKeys
from gatepost.judge.names import ResolvedNames
from gatepost.judge.rotation import Rotation
from gatepost.judge.seal import Seal
from gatepost.logs import set_level
from gatepost.policy.action import ToMailbox
from gatepost.policy.policy import Policy
from gatepost.policy.rules import load as load_rules
from gatepost.policy.watch import watch as watch_tables
from gatepost.queue.atrest import AtRest, keys_of
from gatepost.queue.bounce import Filed, Reporter
from gatepost.queue.dmarcreports import DmarcReporter
from gatepost.queue.home import Homes
from gatepost.queue.letters import Letters
from gatepost.queue.logins import LoginLetters
from gatepost.queue.reporting import SPREAD, Identity
from gatepost.queue.settings import Unproven
from gatepost.queue.settle import Settler
from gatepost.queue.tlsreports import TlsReporter
from gatepost.queue.verbs import retry_all
from gatepost.queue.work import Worker as QueueWorker
from gatepost.relay.assurance import Assurer
from gatepost.relay.deliver import Relay, TlsContexts, read_logins
from gatepost.relay.mtasts import Policies
from gatepost.relay.mtasts import folder_of as policies_folder
from gatepost.relay.program import Programs
from gatepost.relay.route import Router
from gatepost.store.describe import describe
from gatepost.store.mailbox import Mailboxes
from gatepost.store.message import append_notice, append_steps
from gatepost.store.model import NoSuchMailbox
from gatepost.tlsrpt.results import Results as TlsResults
from gatepost.tlsrpt.results import sweep as sweep_tls_results
from gatepost.view import pop3
from gatepost.view.imap.serve import serve as serve_imap
from gatepost.view.news import MailboxNews
from gatepost.view.services import Services as ViewServices
from gatepost.web import mtasts
from gatepost.web import serve as web
from gatepost.web.page import Page, Site

DRAIN_S: Final = 30.0
SWEEP_S: Final = 600.0
POST_S: Final = 60.0
CROWDED_SHARE: Final = 0.8
BUSY: Final = b"421 4.3.2 Too many connections, come back in a moment\r\n"
IMAP_BUSY: Final = b"* BYE [UNAVAILABLE] Too many connections, come back in a moment\r\n"
POP3_BUSY: Final = b"-ERR [SYS/TEMP] Too many connections, come back in a moment\r\n"
_BUSY: Final = {
    Kind.MX: BUSY,
    Kind.SUBMISSION: BUSY,
    Kind.LMTP: BUSY,
    Kind.IMAP: IMAP_BUSY,
    Kind.POP3: POP3_BUSY,
}
_TOTAL: Final = {
    Kind.IMAP: Limits(10_000, 30, 120),
    Kind.IMAPS: Limits(10_000, 30, 120),
}

LOCAL: Final = Limits(200, 0, 0)
LOCAL_LOOK_S: Final = 30.0

RENEWED: Final = frozenset(("tls", "gate", "intake", "judge", "allowance", "policy", "view", "diary", "web"))
"""Sections of the configuration that SIGHUP applies whole; of `server` it applies the log level."""

Sockets = Mapping[str, Sequence[socket.socket]]
"""Listening sockets by the name of their listener."""


class Worker:
    """One worker's server. `start`, then `run` until `drain`."""

    def __init__(self, config: Config, databases: Databases, log: Log, *, slot: int, mint: int) -> None:
        """Make it; `mint` is the slot of its ids, which differs between generations."""
        self._config = config
        self._databases = databases
        self._log = log
        self._slot = slot
        self._mint = mint
        self._clock: Clock = SystemClock()
        self._listeners: list[Listener] = []
        self._local: tuple[Listener, socket.socket] | None = None
        """For the programs of this machine."""
        self._live: defaultdict[str, set[Wire]] = defaultdict(set)
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals = Refusals(config.diary)
        self._tls_results = TlsResults(config.tls.reports, self._clock)
        self._dmarc_results = DmarcResults(config.judge.reports, self._clock)
        self._queue: QueueWorker
        self._reporter: Reporter
        self._sending: asyncio.Task[None] | None = None
        self._letters: Letters
        self._seal: Seal
        self._key_file: KeyFile
        self._allowance: Allowance
        self._intake: intake.Services
        self._view: ViewServices
        self._web: web.Services

    async def start(self, sockets: Sockets) -> None:
        """Build everything and begin to accept; raises what a wrong setting raises."""
        config = self._config
        self._certificates = await asyncio.to_thread(open_certificates, config, self._clock, self._log)
        self._asking = _asking(config, self._certificates, self._clock)
        self._resolver = Resolver(
            _servers(config.resolver.servers) or system_servers(),
            clock=self._clock,
            trusted=config.resolver.trusted,
        )
        self._sync = Sync(config.feeds.sync, clock=self._clock, log=self._log, hears=self._slot == 0)
        self._list_resolver = Resolver(  # of their own: lists that are dead must not take what mail needs
            _servers(config.resolver.servers) or system_servers(), clock=self._clock
        )
        self._dns_lists = DnsLists(config.gate.dns, self._list_resolver, clock=self._clock, log=self._log)
        self._gate = Gate(
            _in_bounds(config.gate),
            self._databases.gate,
            hostname=config.hostname,
            clock=self._clock,
            log=self._log,
            cut=self._cut,
            scans=self._slot == 0,
            names=ResolvedNames(self._resolver),
            dns_lists=self._dns_lists,
            news=self._sync,
            certificates=self._certificates,
        )
        await self._build_ground()
        await self._gate.start()
        self._bgp = BgpService(
            config.feeds.bgp,
            self._gate,
            own=_own_ips(config),
            clock=self._clock,
            log=self._log,
            data_dir=config.data_dir,
        )
        self._lists = ListFeed(
            config.feeds.lists,
            config.data_dir,
            self._gate,
            StoredTables(self._databases.gate, config.gate, self._clock),
            clock=self._clock,
            log=self._log,
            chance=random.random,
        )
        await self._build_path()
        for name, listening in sockets.items():
            self._listen(name, listening)
        if self._slot == 0:
            self._listen_here()

    async def run(self) -> None:
        """Work until `drain`."""
        self._sending = self._own(self._queue.run())
        jobs = [self._gate.run(), self._flush_refusals(), self._rotate_tickets()]
        jobs += [self._dns_lists.watch(), self._sync.run(self._gate, self._databases.gate)]
        jobs.append(watch_tables(self._policy, self._log, asyncio.sleep))
        if self._slot == 0:
            jobs.append(self._tls_reporter().run())
            jobs.append(self._dmarc_reporter().run())
            jobs.append(self._rotation().run())
            jobs += [self._take_left(), self._sweep(), self._release(), self._bgp.run(), self._lists.run()]
        if self._puller is not None:
            jobs.append(self._puller.run())
        for job in jobs:
            self._own(job)
        self._drained = asyncio.Event()
        await self._drained.wait()

    async def drain(self, grace: float = DRAIN_S) -> None:
        """Accept no more, let sessions end for `grace` seconds, give the queue back, stop."""
        self._bgp.leave()  # at once: a neighbour takes one session only, and the next generation wants it
        async with asyncio.TaskGroup() as group:
            for listener in self._listeners:
                group.create_task(listener.drain(grace))
            if self._local is not None:
                listener, sock = self._local
                listener.stop()
                sock.close()  # who comes now leaves its mail in the folder
                group.create_task(listener.drain(grace))
            group.create_task(self._end_queue(grace))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ahead.close()
        await self._write_refusals()
        await self._policies.close()
        await self._resolver.close()
        await self._list_resolver.close()
        self._drained.set()

    async def reload(self, config: Config) -> None:
        """Take another configuration while sessions go on; raises and keeps the old one where it cannot be used.

        Sessions that are open go on with the old settings. What RENEWED does not name waits for `gatepost upgrade`.
        """
        ruleset = await asyncio.to_thread(load_rules, config.policy, self._log.warning)
        pairs = tuple(Pair(Path(each.certificate), Path(each.key)) for each in config.tls.certificates)
        logins = await asyncio.to_thread(read_logins, self._config.relay.credentials)
        if self._slot == 0:
            await self._bgp.renew(config.feeds.bgp)
            self._lists.renew(config.feeds.lists)
        await self._gate.reload(_in_bounds(config.gate))
        try:
            for each in (*self._asking.values(), self._certificates):
                each.reload(self._clock.now(), pairs or None)
        except TlsUnusable:
            await self._gate.reload(_in_bounds(self._config.gate))
            raise
        self._doorkeeper.renew(config.gate.bans)
        self._policy.renew(config.policy, ruleset)
        self._relay.renew(logins)
        self._allowance.renew(config.allowance)
        self._judge.renew(config.judge, _scanner(config))
        self._seal.renew(config.judge.signing)
        self._refusals.renew(config.diary)
        self._tls_results.renew(config.tls.reports)
        self._dmarc_results.renew(config.judge.reports)
        self._intake = replace(self._intake, settings=config.intake)
        self._view = replace(self._view, settings=config.view)
        self._web = replace(self._web, settings=config.web)
        set_level(config.server.log_level)
        waiting = unrenewed(self._config, config)
        if waiting:
            self._log.warning(
                "upgrade_needed", sections=", ".join(waiting), text="gatepost upgrade takes these settings too."
            )
        self._config = replace(config, **{name: getattr(self._config, name) for name in waiting})
        for listener in self._listeners:
            listener.renew(_limits(self._config.listeners[listener.name].kind, self._config))
        self._log.info("reloaded", slot=self._slot)

    # --- building -------------------------------------------------------------------------------------------

    async def _build_ground(self) -> None:
        config = self._config
        keys = await asyncio.to_thread(keys_of, config.queue)
        await admit(self._databases.mail, keys, self._clock.now())
        if keys.first is not None:
            self._databases = replace(self._databases, mail=AtRest(self._databases.mail, keys))
        mail = self._databases.mail
        self._minter = Minter(self._mint)
        self._blobs = Blobs(mail, config.data_dir / "bodies", keys=keys, compress=config.queue.compression)
        self._mailboxes = Mailboxes(mail, self._blobs, self._minter)
        hasher = await asyncio.to_thread(Hasher, config.accounts)
        self._directory = Directory(mail, hasher, self._clock, config.accounts)
        self._doorkeeper = Doorkeeper(config.gate.bans, self._gate)
        self._throttle = Throttle(config.intake, self._doorkeeper, ours=self._is_backup)
        self._budget = SpoolBudget(config.intake.spool_memory, config.intake.spool_disk)

    def _is_backup(self, ip: str) -> bool:
        """Tell whether a client is one of our other mail servers, which brings mail of strangers."""
        backups = self._config.gate.backups
        return bool(backups) and bool(ip) and _networks(backups).holds(*number_of(ip.partition("%")[0]))

    async def _build_path(self) -> None:
        config, mail = self._config, self._databases.mail
        spool_dir = config.data_dir / "spool"
        ruleset = await asyncio.to_thread(load_rules, config.policy, self._log.warning)
        self._policy = Policy(config.policy, ruleset, own_names=(config.hostname,))
        key_file = await asyncio.to_thread(KeyFile.open, config.data_dir / "secret.key")
        seal = self._seal = Seal(StoredKeys(mail, key_file), config.judge.signing)
        self._key_file = key_file
        self._queue = self._build_queue(seal)
        self._allowance = Allowance(config.allowance, mail)
        names = ResolvedNames(self._resolver)
        self._judge = Judge(
            config.judge,
            config.hostname,
            names,
            _scanner(config),
            self._log,
            ours=self._is_backup,
            counted=self._dmarc_results.add,
        )
        self._intake = intake.Services(
            settings=config.intake,
            hostname=config.hostname,
            clock=self._clock,
            minter=self._minter,
            database=mail,
            bodies=self._blobs,
            mailboxes=self._mailboxes,
            directory=self._directory,
            policy=self._policy,
            gate=self._gate,
            judge=self._judge,
            seal=seal,
            names=self._resolver,
            refusals=self._refusals,
            throttle=self._throttle,
            watch=self._doorkeeper,
            spool=lambda: Spool(spool_dir, self._budget),
            certificates=self._certificates,
            log=self._log,
            pause=asyncio.sleep,
            crowded=self._crowded,
            queue=self._queue,
            verify=self._build_backup(),
            reports=self._reporter,
            allowance=self._allowance,
            letters=self._letters,
        )
        self._view = ViewServices(
            settings=config.view,
            hostname=config.hostname,
            clock=self._clock,
            news=MailboxNews(mail),
            mailboxes=self._mailboxes,
            spool=lambda: Spool(spool_dir, self._budget),
            accounts=self._directory,
            attempts=self._throttle,
            certificates=self._certificates,
            log=self._log,
            pause=asyncio.sleep,
        )
        self._web = web.Services(config.web, self._site(), self._clock, self._log)

    def _rotation(self) -> Rotation:
        return Rotation(
            self._databases.mail,
            self._key_file,
            ResolvedNames(self._resolver),
            self._letters,
            lambda: self._config.judge.signing,
            self._clock,
            self._log,
        )

    def _tls_reporter(self) -> TlsReporter:
        """Return what tells other domains how TLS to them went."""

        async def send(url: str, octets: bytes, kind: str, at: str) -> None:
            context = await asyncio.to_thread(client_context, verify=True)  # httpx sets its ALPN: theirs alone
            await post(url, octets, kind, within=POST_S, tls=context, at=at)

        return TlsReporter(
            self._databases.mail,
            self._databases.gate,
            self._resolver,
            self._reporter,
            send,
            identity=lambda: Identity.of(
                self._config.tls.reports, self._config.hostname, self._config.accounts.postmaster
            ),
            settings=lambda: self._config.tls.reports,
            clock=self._clock,
            log=self._log,
            delay=random.SystemRandom().randrange(SPREAD),
            allow_loopback=self._config.relay.allow_loopback,
        )

    def _dmarc_reporter(self) -> DmarcReporter:
        """Return what tells other domains how mail in their names fared."""
        return DmarcReporter(
            self._databases.mail,
            self._databases.gate,
            ResolvedNames(self._resolver),
            self._reporter,
            identity=lambda: Identity.of(
                self._config.judge.reports, self._config.hostname, self._config.accounts.postmaster
            ),
            settings=lambda: self._config.judge.reports,
            clock=self._clock,
            log=self._log,
            delay=random.SystemRandom().randrange(SPREAD),
        )

    def _site(self) -> Site:
        """Return the pages of the web listener, by method and path."""
        policy = mtasts.page(lambda: self._config.tls.mta_sts, self._config.hostname, self._directory.is_local)
        pages: dict[tuple[str, str], Page] = {("GET", mtasts.PATH): policy}
        if self._config.server.role is Role.PRIMARY:
            pages["GET", RECIPIENTS_PATH] = self._publisher().page
            pages["POST", JOIN_PATH] = self._doorman().page
        return Site(pages)

    def _publisher(self) -> Publisher:
        """Return what tells backups whom there is mail for."""
        config = self._config
        return Publisher(
            self._databases.mail,
            self._directory,
            backups_folder(config.data_dir),
            server=config.hostname,
            separator=config.accounts.detail_separator,
            size=lambda: self._config.intake.max_size,
            complete=lambda: accounts_decide(self._config.policy),
            clock=self._clock,
            log=self._log,
        )

    def _doorman(self) -> Doorman:
        """Return what lets backups join that were invited."""
        config = self._config
        return Doorman(
            self._databases.mail,
            backups_folder(config.data_dir),
            server=config.hostname,
            size=lambda: self._config.intake.max_size,
            sync=lambda: self._config.feeds.sync,
            backups=lambda: self._config.gate.backups,
            clock=self._clock,
            log=self._log,
        )

    def _build_backup(self) -> intake.Verify | None:
        """Return what knows, on a backup, whom the primary has mail for."""
        config = self._config
        self._ahead = CallAhead(self._relay.reach, config.backup, clock=self._clock, log=self._log)
        self._puller: Puller | None = None
        if config.server.role is not Role.BACKUP_MX:
            return None
        kept = self._build_puller() if config.backup.primary else None
        return KnownRecipients(config.backup, kept, self._ahead, clock=self._clock).check

    def _build_puller(self) -> Kept | None:
        """Return the list that a backup has; without a key there is none, and the primary is asked."""
        config, folder = self._config, kept_folder(self._config.data_dir)
        try:
            keys = Keys.derive(read_key(config.backup.key_file))
            if self._slot == 0:
                self._puller = Puller(
                    config.backup,
                    config.backup.name or config.hostname,
                    folder,
                    keys,
                    clock=self._clock,
                    log=self._log,
                    returned=lambda: retry_all(self._databases.mail, self._clock.now()),
                    size=config.intake.max_size,
                )
        except (KeyUnusable, OSError) as wrong:
            self._log.error("recipients_not_pulled", problem=str(wrong), text="The primary is asked about each.")
            return None
        return Kept(folder, keys, clock=self._clock, log=self._log)

    def _build_queue(self, seal: Seal) -> QueueWorker:
        config = self._config
        self._reporter = Reporter(
            config.queue,
            self._blobs,
            self._policy,
            self._directory,
            _Filing(self._mailboxes),
            _Sealing(seal),
            minter=self._minter,
            hostname=config.hostname,
            postmaster=config.accounts.postmaster or f"postmaster@{config.hostname}",
            log=self._log,
            unproven=_unproven(config),
        )
        self._letters = Letters(self._databases.mail, self._reporter, self._clock, self._log)
        router = Router(
            config.relay,
            self._resolver,
            own_names=(config.hostname,),
            own_ips=_own_ips(config),
            shuffle=random.SystemRandom().shuffle,
        )
        self._policies = Policies(
            self._resolver,
            policies_folder(config.data_dir),
            clock=self._clock,
            log=self._log,
            allow_loopback=config.relay.allow_loopback,
        )
        relay = Relay(
            config.relay,
            router,
            TlsContexts(client_context(verify=False), client_context(verify=True)),
            hostname=config.hostname,
            clock=self._clock,
            log=self._log,
            contacts=self._gate,
            logins=read_logins(config.relay.credentials),
            assurer=Assurer(config.relay, self._resolver, self._policies),
            operator=LoginLetters(self._letters),
            shown=self._policy.shown,
            tally=self._tls_results,
        )
        self._relay = relay
        return QueueWorker(
            self._databases.mail,
            self._blobs,
            Programs(relay, self._log, time_limit=config.relay.program_time, subaddress=config.policy.subaddress),
            Settler(
                config.queue,
                self._blobs,
                self._reporter,
                self._log,
                unproven=_unproven(config),
                homes=Homes(self._blobs, _Filing(self._mailboxes), self._minter),
            ),
            settings=config.queue,
            sending=config.relay,
            minter=self._minter,
            clock=self._clock,
            log=self._log,
        )

    # --- accepting ------------------------------------------------------------------------------------------

    def _listen(self, name: str, sockets: Sequence[socket.socket]) -> None:
        settings = self._config.listeners[name]
        kind = settings.kind

        def accept(wire: Wire) -> Coroutine[object, object, None] | None:
            return self._accept(wire, kind, name, settings.tag)

        for sock in sockets:
            listener = Listener(
                sock,
                accept,
                limits=_limits(kind, self._config),
                name=name,
                log=self._log,
                tls=self._asking.get(name, self._certificates) if kind.implicit_tls else None,
                busy=_BUSY.get(kind, b""),
                balancers=_balancers(settings.proxy),
                redirected=kind is Kind.SPAMD,
                exempt=self._is_backup if kind in (Kind.MX, Kind.HTTPS) else None,
            )
            listener.start()
            self._listeners.append(listener)

    def _listen_here(self) -> None:
        """Listen for programs of this machine (`sendmail`); without a folder to do so we serve the network only."""
        folder = local.local_dir(self._config.intake.local_dir, self._config.data_dir)
        try:
            offline.prepare(folder)
            sock = local.listen_at(folder / offline.SOCKET)
        except OSError as error:
            self._log.error("local_socket_not_open", folder=str(folder), error=str(error))
            return

        def accept(wire: Wire) -> Coroutine[object, object, None]:
            return local.serve(wire, self._intake, wire.peer_uid)

        listener = Listener(sock, accept, limits=LOCAL, name=local.LISTENER, log=self._log, busy=BUSY)
        listener.start()
        self._local = listener, sock

    async def _take_left(self) -> None:
        """Take in what `sendmail` has left while we were away, or when our socket was full."""
        folder = local.local_dir(self._config.intake.local_dir, self._config.data_dir)
        while True:
            outcome = await local.take_all(self._intake, folder)
            if outcome.taken or outcome.refused:
                self._log.info("local_mail_taken", mails=outcome.taken, refused=outcome.refused)
            await asyncio.sleep(LOCAL_LOOK_S)

    def _accept(self, wire: Wire, kind: Kind, name: str, tag: str) -> Coroutine[object, object, None] | None:
        """Ask the gate, then hand the wire to who speaks its protocol."""
        if not wire.peer_ip or wire.probe:  # a unix socket: somebody on this machine; or a balancer's health check
            return self._session(wire, kind, name, tag)
        if kind is Kind.SPAMD:
            self._tarpit(wire, redirected(wire.peer_ip, self._gate))
            return None
        decision = self._gate.decide(wire.peer_ip, kind.value)
        match decision.verdict:
            case Verdict.BLOCK:
                self._refusals.count(wire.peer_ip, "blocked", self._clock.now())
                wire.abort()
                return None
            case Verdict.GREY if self._gate.asks_lists(decision, kind.value):
                return self._look_up(wire, kind, name, tag, decision)
            case Verdict.GREY | Verdict.BLACK if self._gate.tarpits(decision):
                self._tarpit(wire, decision)
                return None
        return self._admit(wire, kind, name, tag, decision)

    async def _look_up(self, wire: Wire, kind: Kind, name: str, tag: str, decision: Decision) -> None:
        """Ask the DNS lists about a client that no table knows, while it waits for its greeting."""
        decision = await self._gate.look_up(wire.peer_ip, decision)
        if wire.closed:  # it has left: nobody would tell a session so
            return
        if self._gate.tarpits(decision):
            self._tarpit(wire, decision)
            return
        session = self._admit(wire, kind, name, tag, decision)
        if session is not None:
            await session

    def _tarpit(self, wire: Wire, decision: Decision) -> None:
        """Hold a client, and count that it was refused."""
        self._refusals.count(wire.peer_ip, decision.verdict.value, self._clock.now())
        self._gate.hold(wire, decision)

    def _admit(
        self, wire: Wire, kind: Kind, name: str, tag: str, decision: Decision
    ) -> Coroutine[object, object, None] | None:
        """Give a connection to its session, unless its source has too many."""
        reason = self._gate.opened(wire.peer_ip, kind.value, decision)
        if reason:
            self._gate.closed(wire.peer_ip, kind.value, decision)
            self._refusals.count(wire.peer_ip, "rate", self._clock.now())
            wire.abort()
            return None
        if kind is Kind.MX:
            self._gate.let_in(wire.peer_ip, wire.local_ip, wire.local_port, decision)
        return self._counted(wire, kind, decision, self._session(wire, kind, name, tag))

    async def _counted(
        self, wire: Wire, kind: Kind, decision: Decision, session: Coroutine[object, object, None]
    ) -> None:
        """Run a session where `cut` finds it."""
        who = source(wire.peer_ip)
        self._live[who].add(wire)
        try:
            await session
        finally:
            self._live[who].discard(wire)
            if not self._live[who]:
                del self._live[who]
            self._gate.closed(wire.peer_ip, kind.value, decision)

    def _session(self, wire: Wire, kind: Kind, name: str, tag: str) -> Coroutine[object, object, None]:
        receiving, reading = self._intake, self._view
        if name in self._asking:  # STARTTLS finds its certificates there
            receiving = replace(receiving, certificates=self._asking[name])
            reading = replace(reading, certificates=self._asking[name])
        match kind:
            case Kind.MX:
                return mx.serve(wire, receiving, listener=name, tag=tag)
            case Kind.SUBMISSION | Kind.SUBMISSIONS:
                return submission.serve(wire, receiving, listener=name, tag=tag)
            case Kind.LMTP:
                return lmtp.serve(wire, receiving, listener=name, tag=tag)
            case Kind.IMAP | Kind.IMAPS:
                return serve_imap(wire, reading)
            case Kind.POP3 | Kind.POP3S:
                return pop3.serve(wire, reading)
            case Kind.HTTPS:
                return web.serve(wire, self._web)
            case Kind.SPAMD:
                return _nothing()  # a balancer's health check; everybody else is held

    async def _release(self) -> None:
        """Let those go whose ban is over, for ever."""

        def tables() -> Iterable[str]:
            settings = self._config.gate
            overloads = (rate.overload for rate in settings.rates.values() if rate.overload)
            return (settings.bans.table, *overloads)

        await keep_releasing(
            self._databases.gate,
            tables,
            lambda: self._config.gate.bans.ban_time,
            clock=self._clock,
            log=self._log,
        )

    def _cut(self, network: Prefix) -> None:
        """End every connection of a network."""
        for who in senders_within(network, self._live):
            for wire in tuple(self._live.get(who, ())):
                wire.abort()

    def _crowded(self) -> bool:
        served = sum(listener.open for listener in self._listeners) - self._gate.counts().held
        return served > CROWDED_SHARE * Limits().total

    # --- jobs -----------------------------------------------------------------------------------------------

    def _own(self, job: Coroutine[object, object, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await job
            except asyncio.CancelledError:
                raise
            except Exception:
                self._log.exception("job_failed")

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end_queue(self, grace: float) -> None:
        """Let deliveries that have begun end: one that is cut off is in doubt, and waits for its lease."""
        await self._queue.stop()
        if self._sending is not None:
            await asyncio.wait((self._sending,), timeout=grace)

    async def _flush_refusals(self) -> None:
        while True:
            await asyncio.sleep(1)
            await self._write_refusals()

    async def _write_refusals(self) -> None:
        for event, unit in (
            ("refusals_not_written", self._refusals.unit()),
            ("tls_results_not_written", self._tls_results.unit()),
            ("dmarc_results_not_written", self._dmarc_results.unit()),
        ):
            if unit is not None:
                try:
                    await self._databases.gate.commit(unit)
                except NotCommitted as error:
                    self._log.warning(event, error=str(error))

    async def _rotate_tickets(self) -> None:
        while True:
            await asyncio.sleep(12 * 3600)
            for each in (*self._asking.values(), self._certificates):
                each.rotate()

    async def _sweep(self) -> None:
        """Do what one process does for all: old stories, orphaned files, interrupted deletions."""
        works: tuple[Callable[[Instant], Awaitable[object]], ...] = (
            lambda now: sweep_diary(self._databases.mail, self._config.diary, now),
            lambda now: sweep_refusals(self._databases.gate, self._config.diary, now),
            lambda now: sweep_tls_results(self._databases.gate, self._config.tls.reports, now),
            lambda now: sweep_dmarc_results(self._databases.gate, self._config.judge.reports, now),
            self._blobs.sweep,
            lambda _: self._mailboxes.sweep(),
        )
        while True:
            for work in works:
                try:
                    await work(self._clock.now())
                except (NotCommitted, OSError) as error:
                    self._log.warning("sweep_failed", error=str(error))
            await asyncio.sleep(SWEEP_S)


class _Filing:
    """Puts what comes from the queue into a mailbox (queue.bounce.Mailboxes)."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes

    async def file(self, delivery: ToMailbox, envelope: Envelope, content: bytes, now: Instant) -> Filed:
        try:
            mailbox = (await self._mailboxes.find(delivery.account, delivery.mailbox_name)).id
        except NoSuchMailbox:
            mailbox = await self._mailboxes.inbox(delivery.account)
        steps = append_steps(mailbox, envelope.id, describe(content, now), 0, now, MailId(envelope.id))
        return Filed(steps, (append_notice(mailbox),))


class _Sealing:
    """Signs what the queue writes itself (queue.bounce.Sealer)."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    async def seal(self, content: bytes, domain: str, now: Instant) -> bytes:
        header = HeaderBlock.parse(content)
        return await self._seal.seal(raw_fields(content, header), content[header.end :], domain, now)


def open_certificates(config: Config, clock: Clock, log: Log) -> TlsHolder:
    """Return the server's certificates; without any in the configuration, a self-signed one, said loudly."""
    pairs = tuple(Pair(Path(each.certificate), Path(each.key)) for each in config.tls.certificates)
    if not pairs:
        folder = config.data_dir / "tls"
        pair = Pair(folder / "self-signed.pem", folder / "self-signed.key")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _one_at_a_time(folder):  # all workers start at once
            if not pair.certificate.exists():
                write_pair(pair, *self_signed((config.hostname,), clock.now()))
        log.warning(
            "self_signed_certificate",
            text="No certificate is configured: clients will warn of this one. Set [[tls.certificates]].",
            certificate=str(pair.certificate),
        )
        pairs = (pair,)
    return TlsHolder(pairs, clock.now())


def _asking(config: Config, certificates: TlsHolder, clock: Clock) -> Mapping[str, TlsHolder]:
    """Return the certificates of the listeners that ask for those of their clients; raises TlsUnusable."""
    return {
        name: certificates.asking(
            Clients(Path(each.client_authorities), required=each.client_certificates is ClientCertificates.REQUIRE),
            clock.now(),
        )
        for name, each in config.listeners.items()
        if each.client_certificates is not ClientCertificates.NO
    }


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other processes of ours out of a folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def unrenewed(old: Config, new: Config) -> tuple[str, ...]:
    """Return the sections in which two configurations differ and which `Worker.reload` cannot take."""
    names = [each.name for each in fields(Config) if each.name not in RENEWED]
    kept = {name: getattr(new, name) for name in names}
    kept["server"] = replace(new.server, log_level=old.server.log_level)
    kept["feeds"] = replace(new.feeds, bgp=old.feeds.bgp, lists=old.feeds.lists)
    return tuple(name for name in names if kept[name] != getattr(old, name))


@lru_cache(maxsize=4)
def _networks(texts: tuple[str, ...]) -> Networks:
    return Networks.of(map(parse_prefix, texts))


def _unproven(config: Config) -> Unproven:
    """Return what becomes of mail that fails and whose sender may be forged: only a backup has much of it."""
    return config.backup.bounces if config.server.role is Role.BACKUP_MX else Unproven.DISCARD


async def _nothing() -> None:
    """Serve nobody: the listener closes the wire."""


def _in_bounds(settings: GateSettings) -> GateSettings:
    """Return the gate's settings with no more held connections than this process has descriptors for."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return replace(settings, connections=places(settings.connections, descriptors))


def _limits(kind: Kind, config: Config) -> Limits:
    """Return a listener's limits: where clients are held, the places of the gate beside those of the server."""
    held = _in_bounds(config.gate).connections
    match kind:
        case Kind.MX:
            return Limits(held + Limits().total, 20, 60)
        case Kind.SPAMD:
            return Limits(held + BATCH, 0, 0)  # beyond the places the gate closes, and counts it
        case _:
            return _TOTAL.get(kind, Limits())


def _scanner(config: Config) -> SimpleScanner | None:
    return SimpleScanner() if config.judge.filter else None


def _servers(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    return tuple(split_address(text, 53, ("resolver", "servers", at)) for at, text in enumerate(texts))


def _balancers(networks: Sequence[str]) -> Callable[[str], bool] | None:
    """Return what tells whether a peer is a balancer of a listener."""
    if not networks:
        return None
    known = Networks.of(parse_prefix(each) for each in networks)
    return lambda ip: known.holds(*number_of(ip))


def _own_ips(config: Config) -> tuple[str, ...]:
    found = []
    for name, listener in config.listeners.items():
        if listener.kind is Kind.MX:
            for each in listener.address:
                found += [ip for ip, _ in bound(each, PORTS[Kind.MX], ("listen", name))]
    return tuple(ip for ip in found if ip not in ("0.0.0.0", "::"))  # noqa: S104  (compared, not bound)
