"""Deliver one consignment: over a kept connection, or over a new one to the best host that answers."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from ssl import SSLContext
from typing import Final, Protocol

from gatepost.base.address import Address
from gatepost.base.clock import Clock, Instant
from gatepost.base.envelope import Privacy
from gatepost.base.ids import id_text
from gatepost.base.ports import Log
from gatepost.base.reply import Code, Reply
from gatepost.base.settings import BadSetting
from gatepost.codec.tlsrpt import Asked, Failed, Failure
from gatepost.policy.action import RelayTls, Route, RouteKind
from gatepost.policy.table import TableSettings, load_table
from gatepost.relay.assurance import Assurance, Assurer, Insecure, Level, Unsure
from gatepost.relay.client import Login, LoginRefused, Manner, Session, Unreachable
from gatepost.relay.connect import Silent
from gatepost.relay.model import Consignment, Fate, Result
from gatepost.relay.pool import Pool
from gatepost.relay.room import Room
from gatepost.relay.route import NO_HOST, Hop, NoRoute, Router
from gatepost.relay.settings import RelaySettings
from gatepost.relay.transaction import send

NO_REQUIRETLS: Final = "5.7.30"  # RFC 8689 §4.2.1, with 550
NO_TLS: Final = "5.7.10"  # with 523


class Contacts(Protocol):
    """Who wants to know whom we mailed: the gate lets answers in."""

    def contacted(self, ip: str) -> None:
        """Learn that a mail was taken by this address."""
        ...


class Logins(Protocol):
    """Who tells the operator of a password that a smart host does not take."""

    async def refused(self, label: str, host: str, answer: str) -> None:
        """Learn that the credentials `label` were refused."""
        ...

    async def worked(self, label: str) -> None:
        """Learn that they were taken; called for each login."""
        ...


class Tally(Protocol):
    """Who counts how TLS to other domains went (RFC 8460)."""

    def succeeded(self, domain: str, asked: Asked) -> None:
        """Learn of a session whose TLS was as asked."""
        ...

    def failed(self, domain: str, asked: Asked, failed: Failed) -> None:
        """Learn of one whose TLS was not; the mail may have gone all the same."""
        ...


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """How we speak TLS to others: with any certificate, and with one that must hold."""

    any: SSLContext
    verify: SSLContext

    def context(self, level: Level) -> SSLContext | None:
        """Return the one for a level; None: no TLS."""
        match level:
            case Level.PLAIN:
                return None
            case Level.VERIFY:
                return self.verify
            case Level.MAY | Level.ENCRYPT | Level.DANE:
                return self.any


class Relay:
    """Sends mail to other machines. `deliver` never raises for what a stranger does."""

    def __init__(
        self,
        settings: RelaySettings,
        router: Router,
        contexts: TlsContexts,
        *,
        hostname: str,
        clock: Clock,
        log: Log,
        contacts: Contacts | None = None,
        logins: Mapping[str, Login] | None = None,
        assurer: Assurer | None = None,
        operator: Logins | None = None,
        shown: Callable[[Address, Instant], Address] | None = None,
        tally: Tally | None = None,
    ) -> None:
        """Make it; `logins` by the labels that routes name, see `read_logins`; without `assurer` no DANE."""
        self._settings = settings
        self._router = router
        self._contexts = contexts
        self._hostname = settings.helo or hostname
        self._clock = clock
        self._log = log
        self._contacts = contacts
        self._logins = logins or {}
        self._assurer = assurer or Assurer(settings, None)
        self._operator = operator
        self._shown = shown
        self._tally = tally
        self._silent = Silent(clock)
        self._pool = Pool(settings.idle)
        self._room = Room(settings.in_memory)

    async def deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        """Try once; return one result for each recipient, in order."""
        consignment = self._rewritten(consignment)
        async with self._room.hold(consignment.size):
            results: list[Result] = []
            most = self._settings.recipients
            for start in range(0, len(consignment.recipients), most):
                part = replace(consignment, recipients=consignment.recipients[start : start + most])
                results += await self._deliver(part)
        self._tell(consignment, results)
        return tuple(results)

    def _rewritten(self, consignment: Consignment) -> Consignment:
        """Return a forward with the sender that it shows (SRS)."""
        sender = consignment.sender
        if not consignment.route.srs or sender is None or self._shown is None:
            return consignment
        return replace(consignment, sender=self._shown(sender, self._clock.now()))

    def renew(self, logins: Mapping[str, Login]) -> None:
        """Log in with these from now on."""
        self._logins = logins

    def close(self) -> None:
        """End the kept connections."""
        self._pool.close()

    async def reach(self, route: Route, destination: str) -> Session:
        """Open a session with the best host, for who has a question and no mail; raises Unreachable or NoRoute.

        Of several hosts the first alone is asked: a lesser one may be a backup, which does not know.
        """
        async with aclosing(self._router.hops(route, destination)) as hops:
            async for hop in hops:
                return await self._open_any(hop, route, destination)
        raise Unreachable(NO_HOST)

    async def _deliver(self, consignment: Consignment) -> tuple[Result, ...]:
        route = consignment.route
        destination = route.destination(consignment.recipients[0].address)
        session = self._pool.take((destination, route, consignment.wishes.privacy))
        if session is not None:
            results = await self._over(session, destination, consignment)
            if not all(result.host_down for result in results):
                return results
        last = Result(Fate.DEFERRED, NO_HOST, said=False, host_down=True)
        try:
            async with aclosing(self._hosts(route, destination)) as hops:
                async for hop in hops:
                    tried = await self._try(hop, destination, consignment)
                    if not isinstance(tried, Result):
                        return tried
                    if tried.fate is Fate.DEFERRED or last.fate is Fate.FAILED or not last.host:
                        last = tried  # what another try may mend decides
        except NoRoute as none:
            if not last.host:
                fate = Fate.DEFERRED if none.reply.temporary else Fate.FAILED
                last = Result(fate, none.reply, host_down=none.reply.temporary, said=False)
        if consignment.sender is None and _unprotected(last):
            # RFC 8689 §5: a report "SHOULD NOT" be lost because its way back lacks REQUIRETLS.
            return await self._deliver(
                replace(consignment, wishes=replace(consignment.wishes, privacy=Privacy.USUAL))
            )
        return tuple(last for _ in consignment.recipients)

    async def _try(self, hop: Hop, destination: str, consignment: Consignment) -> tuple[Result, ...] | Result:
        """Try one host by its addresses; a single Result tells that the next host should be tried."""
        left = hop.addresses
        while True:
            try:
                privacy = consignment.wishes.privacy
                session = await self._open_any(hop.at(left), consignment.route, destination, privacy)
            except Unreachable as reason:
                ip = reason.ip or hop.ip
                self._log.info(
                    "hop_unreachable",
                    message=id_text(consignment.mail),
                    host=hop.name,
                    ip=ip,
                    reply=reason.reply.text,
                )
                if reason.unproven and consignment.wishes.privacy is Privacy.REQUIRED:
                    return Result(Fate.FAILED, _for_ever(reason.reply), hop.name, ip, said=False)
                return Result(Fate.DEFERRED, reason.reply, hop.name, ip, host_down=True, said=reason.said)
            results = await self._over(session, destination, consignment)
            left = _without(left, (session.hop.ip,))
            if not all(result.host_down for result in results):
                return results
            if not left:
                return results[0]

    async def _hosts(self, route: Route, destination: str) -> AsyncGenerator[Hop, None]:
        """Yield the hosts to try, those of which no address answered lately at the end; raises NoRoute."""
        resting = []
        async with aclosing(self._router.hops(route, destination)) as hops:
            async for hop in hops:
                if all(self._silent.rests(ip) for ip in hop.addresses):
                    resting.append(hop)
                else:
                    yield hop
        for hop in resting:
            yield hop

    async def _open_any(
        self, hop: Hop, route: Route, destination: str, privacy: Privacy = Privacy.USUAL
    ) -> Session:
        """Open a session with a host by whichever of its addresses is of use; raises Unreachable."""
        left = self._silent.last(hop.addresses)
        while True:
            try:
                return await self._open(hop.at(left), route, destination, privacy)
            except LoginRefused:
                raise  # not once more for each address: the account would be locked
            except Unreachable as reason:
                left = _without(left, reason.tried)
                if not left or not reason.tried:
                    raise

    async def _over(self, session: Session, destination: str, consignment: Consignment) -> tuple[Result, ...]:
        try:
            content = await consignment.load()
            results = await send(session, consignment, content)
        except BaseException:
            session.abort()
            raise
        self._pool.put((destination, consignment.route, consignment.wishes.privacy), session)
        return results

    async def _open(self, hop: Hop, route: Route, destination: str, privacy: Privacy = Privacy.USUAL) -> Session:
        """Open a session, with TLS where that works or as the sender asks; raises Unreachable."""
        session = await self._open_assured(hop, route, destination, privacy)
        if privacy is Privacy.REQUIRED and not session.offered.requiretls and not hop.ip.startswith("/"):
            session.quit()
            text = f"REQUIRETLS support required, which {hop.name} does not offer"
            reason = Unreachable(Reply(Code.NO_SUCH_MAILBOX, NO_REQUIRETLS, text), unproven=True)
            reason.ip, reason.tried = session.hop.ip, (session.hop.ip,)
            raise reason
        return session

    async def _open_assured(self, hop: Hop, route: Route, destination: str, privacy: Privacy) -> Session:
        try:
            assurance = await self._assurer.assure(hop, route, destination, privacy)
        except Unsure as unsure:
            if unsure.flaw is not None and _counts(route, privacy, destination):
                self._failed(
                    destination,
                    unsure.published,
                    Failed(unsure.flaw.failure, 1, hop.name, reason=unsure.flaw.reason),
                )
            answer = Reply(Code.LOCAL_ERROR, "4.7.5", str(unsure))
            raise Unreachable(answer, tls=True, unproven=isinstance(unsure, Insecure)) from unsure
        manner = self._manner(route, assurance)
        counts = self._tally is not None and _counts(route, privacy, destination)
        try:
            session = (
                await self._tried(hop, route, manner, destination)
                if counts
                else await self._session(hop, route, manner)
            )
            if route.auth and self._operator is not None:
                await self._operator.worked(route.auth)
            return session
        except LoginRefused as refused:
            if self._operator is not None:
                await self._operator.refused(route.auth, hop.name, refused.reply.text)
            raise
        except Unreachable as reason:
            if not reason.tls or assurance.required:
                raise
            hop = hop.at((reason.ip,)) if reason.ip else hop
            self._log.warning("tls_failed", host=hop.name, ip=hop.ip, reason=reason.reply.text, then="plain")
        plainly = Assurance(Level.PLAIN, f"{assurance.why}; TLS failed, so without")
        manner = replace(manner, tls=None, assurance=plainly)
        return await self._session(hop, route, manner)

    async def _tried(self, hop: Hop, route: Route, manner: Manner, domain: str) -> Session:
        """Open a session, and count how its TLS went; raises Unreachable.

        A policy that is `testing` is held against the certificate by a handshake that verifies it, and where that
        fails the mail goes by another one that does not.
        """
        asked = manner.assurance
        testing = asked.testing and manner.tls is self._contexts.any
        first = replace(manner, tls=self._contexts.verify) if testing else manner
        try:
            session = await self._session(hop, route, first)
        except Unreachable as reason:
            if reason.failure is not None:
                where = Failed(reason.failure, 1, hop.name, reason.ip, reason.ours, reason.reply.text)
                self._failed(domain, asked.published, where)
            if not testing or not reason.tls:
                raise
            return await self._session(hop.at((reason.ip,)) if reason.ip else hop, route, manner)
        if session.wire.tls is None or asked.flaw is not None:
            failure = Failure.NO_STARTTLS if asked.flaw is None else asked.flaw.failure
            why = "" if asked.flaw is None else asked.flaw.reason
            where = Failed(failure, 1, hop.name, session.hop.ip, session.wire.local_ip, why)
            self._failed(domain, asked.published, where)
        elif self._tally is not None:
            self._tally.succeeded(domain, asked.published)
        return session

    def _failed(self, domain: str, asked: Asked, failed: Failed) -> None:
        if self._tally is not None:
            self._tally.failed(domain, asked, failed)

    async def _session(self, hop: Hop, route: Route, manner: Manner) -> Session:
        """Open a session, and remember which addresses answered; raises Unreachable."""
        try:
            session = await Session.open(hop, route, manner, self._settings, self._clock)
        except Unreachable as reason:
            for ip in reason.tried:
                if ip != reason.ip or not reason.reached:
                    self._silent.failed(ip)
            raise
        for ip in session.failed:
            self._silent.failed(ip)
        self._silent.answered(session.hop.ip)
        return session

    def _manner(self, route: Route, assurance: Assurance) -> Manner:
        login = None
        if route.auth:
            login = self._logins.get(route.auth)
            if login is None:
                text = f"there are no credentials {route.auth!r}"
                raise Unreachable(Reply(Code.AUTH_TEMPORARY, "4.7.8", text))
        helos = {} if route.helo else self._settings.helos
        sources = route.sources or self._settings.source
        context = self._contexts.context(assurance.level)
        return Manner(route.helo or self._hostname, context, assurance, login, helos, sources)

    def _tell(self, consignment: Consignment, results: list[Result]) -> None:
        """Log each answer; tell the gate whom we reached."""
        reached = {
            result.ip for result in results if result.fate is Fate.DELIVERED and not result.ip.startswith("/")
        }
        if self._contacts is not None:
            for ip in reached:
                self._contacts.contacted(ip)
        for recipient, result in zip(consignment.recipients, results, strict=True):
            tell = self._log.warning if result.in_doubt else self._log.info
            tell(
                "possible_duplicate" if result.in_doubt else result.fate.value,
                message=id_text(consignment.mail),
                to=str(recipient.address),
                host=result.host,
                ip=result.ip,
                tls=result.tls.version if result.tls else "",
                tls_asked=result.why,
                reply=f"{result.reply.code} {result.reply.enhanced} {result.reply.text}",
            )


def _counts(route: Route, privacy: Privacy, destination: str) -> bool:
    """Tell whether a domain's own policy decides about the TLS: not where a rule does, or the sender."""
    by_domain = route.kind is RouteKind.MX and not route.lmtp and not destination.startswith("[")
    return (
        by_domain and not route.auth and privacy is Privacy.USUAL and route.tls in (RelayTls.MAY, RelayTls.REQUIRE)
    )


def _without(addresses: Sequence[str], tried: Sequence[str]) -> tuple[str, ...]:
    return tuple(ip for ip in addresses if ip not in tried)


def _for_ever(reply: Reply) -> Reply:
    """Return why mail that requires TLS will never go to a host."""
    return Reply(Code.ENCRYPTION_NEEDED, NO_TLS, reply.text) if reply.temporary else reply


def _unprotected(result: Result) -> bool:
    """Tell whether it failed only because of what REQUIRETLS asks."""
    return result.fate is Fate.FAILED and not result.said and result.reply.enhanced in (NO_REQUIRETLS, NO_TLS)


def read_logins(path: str) -> Mapping[str, Login]:
    """Read `label user:password` lines (table(5), credentials); raises BadSetting. No path, no logins."""
    if not path:
        return {}
    if Path(path).exists() and Path(path).stat().st_mode & 0o077:
        raise BadSetting(("relay", "credentials"), f"{path} is readable by others", f"chmod 600 {path}")
    logins: dict[str, Login] = {}
    for label, value in load_table("relay.credentials", TableSettings(file=path)).plain().items():
        user, colon, password = value.partition(":")
        if not colon:
            user, password = label, value
        logins[label] = Login(user, password)
    return logins
