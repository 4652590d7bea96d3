"""One connection to a next hop (RFC 5321 §4, RFC 2033).

    Session.open           connect, greeting, EHLO (or HELO, LHLO), STARTTLS, AUTH     raises Unreachable
    transaction.send       one mail; see there
    session.quit           QUIT

All waits are for a stranger: each has a limit of time, each reply one of size.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import Final

from gatepost.aio.drive import Wire, connect, connect_unix
from gatepost.aio.offload import Overfull, offload
from gatepost.base.clock import MICROSECONDS, Clock, Instant
from gatepost.base.reply import Code, Reply
from gatepost.codec.smtp import client as smtp
from gatepost.codec.smtp.client import Dialogue, Extensions, HeardReply, PeerBroke
from gatepost.codec.tlsa import Unproven, prove
from gatepost.codec.tlsrpt import Failure
from gatepost.policy.action import Route
from gatepost.relay.assurance import Assurance, Level
from gatepost.relay.connect import NotReached, reach, source_for
from gatepost.relay.route import Hop
from gatepost.relay.settings import RelaySettings

BLOCK: Final = 65_536  # octets written before the peer must have taken most of them
_VERIFY_FAILURES: Final = {10: Failure.EXPIRED, 62: Failure.HOST_MISMATCH, 64: Failure.HOST_MISMATCH}
"""By OpenSSL's X509_V_ERR; all others are certificates that are not trusted."""
_LOST: Final = "connection lost while waiting for the answer to"
_SLOW: Final = "no answer in time to"


class Unreachable(Exception):
    """This hop cannot be spoken to; another may be. `tls`: only because of TLS.

    `unproven`: it was reached, and does not prove what is asked; to try again will not help before somebody acts.
    `ip` is the address that was spoken to, or tried last; `tried` all that are of no use.
    """

    ip = ""
    tried: tuple[str, ...] = ()
    reached = False
    """`ip` was connected to."""
    ours = ""
    """The address that we came from."""
    failure: Failure | None = None
    """What TLS reports call it, where TLS was the reason (RFC 8460 §4.3)."""

    def __init__(self, reply: Reply, *, said: bool = False, tls: bool = False, unproven: bool = False) -> None:
        super().__init__(reply.text)
        self.reply = reply
        self.said = said
        self.tls = tls
        self.unproven = unproven


class LoginRefused(Unreachable):
    """The hop does not let us in; `reply` is ours, and temporary: the mistake is not the sender's."""


class Broken(Exception):
    """The connection is of no use any more; the reply tells why, in our words."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Login:
    """What a smart host knows us by."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Manner:
    """How to speak on a new connection. `tls` None: plain; what the handshake must prove, `assurance` says."""

    hostname: str
    """The name to greet with, unless `helos` knows one for the address that we send from."""
    tls: SSLContext | None
    assurance: Assurance
    login: Login | None = None
    helos: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


class Session:
    """One connection; `usable` tells whether another mail may go over it."""

    def __init__(self, wire: Wire, hop: Hop, route: Route, settings: RelaySettings, clock: Clock) -> None:
        """Use an open wire; `open` is the way to get one."""
        self.hop = hop
        self.mails = 0
        self.wire = wire
        self.route = route
        self.settings = settings
        self._clock = clock
        self.dialogue = Dialogue()
        self._heard: deque[HeardReply] = deque()
        self.offered = Extensions()
        self.broken = False
        self.why = ""
        """What was asked of the TLS, and why."""
        self.failed: tuple[str, ...] = ()
        """Addresses of the hop that did not answer, or not as soon."""

    @staticmethod
    async def open(hop: Hop, route: Route, manner: Manner, settings: RelaySettings, clock: Clock) -> "Session":
        """Connect to one of the hop's addresses and come to where a mail can be sent; raises Unreachable.

        The session's hop has the address that was reached, and no others.
        """
        try:
            reached = await reach(hop.addresses, partial(_connect, hop, manner, settings))
        except NotReached as none:
            raise _unreached(hop, none) from none
        session = Session(reached.wire, hop.at((reached.ip,)), route, settings, clock)
        session.failed = reached.failed
        try:
            await session._begin(manner)
        except Broken as broken:
            session.wire.abort()
            raise session._useless(Unreachable(broken.reply)) from broken
        except Unreachable as reason:
            session.quit()
            raise session._useless(reason) from reason.__cause__
        except BaseException:
            session.quit()
            raise
        return session

    def _useless(self, reason: Unreachable) -> Unreachable:
        """Note that this address is of no use, nor those that did not even connect."""
        reason.ip, reason.reached, reason.ours = self.hop.ip, True, self.wire.local_ip
        reason.tried = (*self.failed, self.hop.ip)
        return reason

    @property
    def usable(self) -> bool:
        """Tell whether another mail may go over this connection."""
        return not self.broken and not self.wire.closed and self.mails < self.settings.mails

    def now(self) -> Instant:
        """Return the time of day."""
        return self._clock.now()

    def quit(self) -> None:
        """Say goodbye and close; the answer is not waited for."""
        if not self.broken:
            self.wire.write(smtp.QUIT)
        self.broken = True
        self.wire.close()

    def abort(self) -> None:
        """Close at once."""
        self.broken = True
        self.wire.abort()

    # The beginning

    async def _begin(self, manner: Manner) -> None:
        self.why = manner.assurance.why
        if self.route.implicit_tls:
            if manner.tls is None:
                raise Unreachable(trouble("4.7.5", "implicit TLS is configured, and TLS switched off"), tls=True)
            await self._handshake(manner.tls, manner.assurance)
        greeting = await self.listen("the greeting", self.settings.greeting_time)
        if greeting.code != Code.READY:
            raise Unreachable(greeting.as_reply(), said=True)
        await self._hello(self._name(manner))
        if self.wire.tls is None and manner.tls is not None and not self.hop.ip.startswith("/"):
            try:
                await self._secure(manner)
            except Broken as broken:  # whatever goes wrong here would not have without TLS
                reason = Unreachable(broken.reply, tls=True)
                reason.failure = Failure.OTHER
                raise reason from broken
        if manner.login is not None:
            await self._log_in(manner.login)

    def _name(self, manner: Manner) -> str:
        """Return the name to greet with: that of the address that we send from, where it has one."""
        return manner.helos.get(self.wire.local_ip, manner.hostname) if manner.helos else manner.hostname

    async def _hello(self, hostname: str) -> None:
        patience = self.settings.command_time
        if self.route.lmtp:
            reply = await self.ask(smtp.lhlo(hostname), "LHLO", patience)
        else:
            reply = await self.ask(smtp.ehlo(hostname), "EHLO", patience)
            if reply.code >= 500:  # RFC 5321 §3.2: an old server; ask as one did before there was EHLO
                reply = await self.ask(smtp.helo(hostname), "HELO", patience)
                if reply.positive:
                    self.offered = Extensions()
                    return
        if not reply.positive:
            raise Unreachable(reply.as_reply(), said=True)
        self.offered = Extensions.read(reply)

    async def _secure(self, manner: Manner) -> None:
        assert manner.tls is not None
        if not self.offered.starttls:
            if manner.assurance.required:
                why = manner.assurance.why
                answer = trouble("4.7.4", f"{self.hop.name} offers no TLS, which is required: {why}")
                reason = Unreachable(answer, unproven=True)
                reason.failure = Failure.NO_STARTTLS
                raise reason
            return
        reply = await self.ask(smtp.STARTTLS, "STARTTLS", self.settings.command_time)
        if reply.code != Code.READY:
            reason = Unreachable(reply.as_reply(), said=True, tls=True)
            reason.failure = Failure.NO_STARTTLS
            raise reason
        if not self.dialogue.idle or self._heard:
            raise Unreachable(trouble("4.7.5", "the server spoke on after the answer to STARTTLS"), tls=True)
        await self._handshake(manner.tls, manner.assurance)
        await self._hello(self._name(manner))

    async def _handshake(self, context: SSLContext, assurance: Assurance) -> None:
        try:
            await self.wire.start_tls_client(context, assurance.sni or self.hop.name, self.settings.tls_time)
        except (OSError, TimeoutError) as error:  # SSLError is an OSError
            self.broken = True
            answer = trouble("4.7.5", f"TLS handshake failed: {_why(error)}")
            reason = Unreachable(answer, tls=True, unproven=isinstance(error, SSLError))
            reason.failure = _failure(error)
            raise reason from error
        if assurance.level is Level.DANE:
            await self._prove(assurance)

    async def _prove(self, assurance: Assurance) -> None:
        """Hold the certificates against the TLSA records, before an octet of ours follows the handshake."""
        chain, moment = self.wire.peer_chain(), datetime.fromtimestamp(self._clock.now() / MICROSECONDS, UTC)
        try:
            await offload(prove, assurance.records, chain, assurance.names, moment)
        except (Unproven, Overfull) as error:
            self.broken = True
            unproven = isinstance(error, Unproven)
            reason = Unreachable(trouble("4.7.5", f"DANE: {error}"), tls=True, unproven=unproven)
            reason.failure = Failure.OTHER if unproven else None
            raise reason from error

    async def _log_in(self, login: Login) -> None:
        if self.wire.tls is None and not self.wire.peer_ip.startswith("127.") and self.wire.peer_ip != "::1":
            raise Unreachable(trouble("4.7.0", "the password is not sent without TLS"))
        patience = self.settings.command_time
        if "PLAIN" in self.offered.mechanisms:
            reply = await self.ask(smtp.auth_plain(login.user, login.password), "AUTH", patience)
        elif "LOGIN" in self.offered.mechanisms:
            for octets in smtp.auth_login(login.user, login.password):
                reply = await self.ask(octets, "AUTH", patience)
                if not reply.positive:
                    break
        else:
            raise Unreachable(trouble("4.7.0", f"{self.hop.name} offers neither AUTH PLAIN nor LOGIN"))
        if reply.code != Code.AUTHENTICATED:
            # Wrong credentials are our mistake, not the sender's: the mail waits until they are mended.
            answer = Reply(Code.AUTH_TEMPORARY, "4.7.8", f"login refused: {reply}")
            raise LoginRefused(answer) if reply.code >= 500 else Unreachable(answer)

    # One exchange

    async def ask(self, octets: bytes, what: str, patience: float) -> HeardReply:
        self.wire.write(octets)
        return await self.listen(what, patience)

    async def listen(self, what: str, patience: float) -> HeardReply:
        """Return the next reply; `patience` is in seconds for the whole of it. Raises Broken."""
        deadline = self._clock.steady() + patience
        try:
            while not self._heard:
                octets = await self.wire.read(deadline)
                if not octets:
                    raise Broken(trouble("4.4.2", f"{_LOST} {what}"))
                self._heard.extend(event.reply for event in self.dialogue.receive(octets))
        except TimeoutError as error:
            raise Broken(trouble("4.4.2", f"{_SLOW} {what}")) from error
        except ConnectionError as error:
            raise Broken(trouble("4.4.2", f"{_LOST} {what}")) from error
        except PeerBroke as error:
            raise Broken(trouble("4.5.0", f"bad answer to {what}: {error}")) from error
        return self._heard.popleft()

    async def drain(self) -> None:
        try:
            await self.wire.drain(self._clock.steady() + self.settings.block_time)
        except TimeoutError as error:
            raise Broken(trouble("4.4.2", "the server stopped taking the mail")) from error
        except ConnectionError as error:
            raise Broken(trouble("4.4.2", "connection lost while sending the mail")) from error


async def _connect(hop: Hop, manner: Manner, settings: RelaySettings, ip: str) -> Wire:
    if ip.startswith("/"):
        return await connect_unix(ip, timeout=settings.connect_time)
    source = source_for(ip, manner.sources, hop.name)
    return await connect(ip, hop.port, local_ip=source, timeout=settings.connect_time)


def _unreached(hop: Hop, none: NotReached) -> Unreachable:
    """Say of each address why it could not be connected to."""
    told = "; ".join(f"{ip} port {hop.port}: {_why(error)}" for ip, error in none.errors)
    reason = Unreachable(trouble("4.4.1", f"cannot connect to {told}"))
    reason.ip, reason.tried = none.errors[-1][0], hop.addresses
    return reason


def trouble(enhanced: str, text: str) -> Reply:
    return Reply(Code.LOCAL_ERROR, enhanced, text)


def _failure(error: BaseException) -> Failure:
    """Return what TLS reports call a handshake that failed (RFC 8460 §4.3.1)."""
    if not isinstance(error, SSLCertVerificationError):
        return Failure.OTHER
    return _VERIFY_FAILURES.get(error.verify_code, Failure.NOT_TRUSTED)


def _why(error: BaseException) -> str:
    if isinstance(error, SSLError):
        return str(error.reason or error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
