"""What a reader's session uses; app binds it."""

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from gatepost.accounts.model import Account, Overloaded
from gatepost.base.clock import Clock, Instant
from gatepost.base.envelope import Tls
from gatepost.base.ports import Log
from gatepost.blobs.spool import Spool
from gatepost.store.mailbox import Mailboxes
from gatepost.view.news import MailboxNews
from gatepost.view.settings import ViewSettings

FAILURES_MAX: Final = 3
DELAYS: Final = (2.0, 4.0, 8.0, 15.0)


class Wire(Protocol):
    """One connection; `aio.drive.Wire` is the real one."""

    peer_ip: str
    local_ip: str
    tls: Tls | None
    goodbye: bytes

    async def read(self, deadline: float | None = None) -> bytes: ...
    def write(self, octets: bytes) -> None: ...
    async def drain(self, deadline: float | None = None) -> None: ...
    def start_tls(self, context: ssl.SSLContext) -> None: ...
    def close(self) -> None: ...


class Accounts(Protocol):
    """Who may log in; raises Overloaded."""

    async def authenticate(self, user: str, password: bytes) -> Account | None: ...


class Attempts(Protocol):
    """How many wrong passwords are too many."""

    def login_allowed(self, ip: str, now: Instant) -> bool: ...
    def login_failed(self, ip: str, user: str, now: Instant) -> None: ...
    def delay_before(self, user: str, now: Instant) -> float: ...


class Certificates(Protocol):
    """Where the TLS context of the next handshake comes from."""

    @property
    def context(self) -> ssl.SSLContext: ...


@dataclass(frozen=True, slots=True)
class Services:
    """All that a session uses. `spool` makes an empty spool; `sessions` counts logins by (user, address)."""

    settings: ViewSettings
    hostname: str
    clock: Clock
    news: MailboxNews
    mailboxes: Mailboxes
    spool: Callable[[], Spool]
    accounts: Accounts
    attempts: Attempts
    certificates: Certificates | None
    log: Log
    pause: Callable[[float], Awaitable[None]]
    sessions: Counter[tuple[str, str]] = field(default_factory=Counter)


class LoginRefused(Exception):
    """Nobody was logged in; the text is for the user, `final` ends the connection."""

    def __init__(self, code: str, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.final = final


class Login:
    """The logins of one session: delays, limits, counts."""

    def __init__(self, services: Services, wire: Wire, protocol: str) -> None:
        self._services = services
        self._wire = wire
        self._protocol = protocol
        self._failures = 0
        self._counted: tuple[str, str] | None = None

    @property
    def secured(self) -> bool:
        """Tell whether a password may be said: over TLS, or where both ends are this machine (Dovecot's rule)."""
        wire = self._wire
        same = bool(wire.peer_ip) and wire.peer_ip == wire.local_ip
        return wire.tls is not None or same or self._services.settings.plain_passwords

    async def attempt(self, user: str, password: bytes) -> Account:
        """Return the account; raises LoginRefused after the delay that this attempt earned."""
        services, ip, now = self._services, self._wire.peer_ip, self._services.clock.now()
        if not services.attempts.login_allowed(ip, now):
            raise LoginRefused("UNAVAILABLE", "Too many wrong passwords from here; try later.", final=True)
        wait = services.attempts.delay_before(user, now)
        if wait:
            await services.pause(wait)
        try:
            account = await services.accounts.authenticate(user, password)
        except Overloaded:
            raise LoginRefused("UNAVAILABLE", "Too many people are logging in; try again in a moment.") from None
        if account is None:
            await self._failed(user)
        assert account is not None
        self._count(account)
        services.log.info(
            "login", protocol=self._protocol, user=account.address, ip=ip, tls=self._wire.tls is not None
        )
        return account

    def leave(self) -> None:
        """Give the session's place back."""
        if self._counted is not None:
            self._services.sessions[self._counted] -= 1
            if self._services.sessions[self._counted] <= 0:
                del self._services.sessions[self._counted]
            self._counted = None

    async def _failed(self, user: str) -> None:
        services, ip = self._services, self._wire.peer_ip
        self._failures += 1
        services.attempts.login_failed(ip, user, services.clock.now())
        services.log.warning("login_failed", protocol=self._protocol, user=user[:100], ip=ip)
        await services.pause(DELAYS[min(self._failures, len(DELAYS)) - 1])
        final = self._failures >= FAILURES_MAX
        raise LoginRefused("AUTHENTICATIONFAILED", "Authentication failed.", final=final)

    def _count(self, account: Account) -> None:
        key, most = (account.address, self._wire.peer_ip), self._services.settings.sessions_per_user
        if self._services.sessions[key] >= most:
            text = f"Maximum number of connections from user+IP exceeded ({most})"
            raise LoginRefused("LIMIT", text, final=True)
        self._services.sessions[key] += 1
        self._counted = key
