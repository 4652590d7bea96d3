"""How many wrong passwords are too many: by address, by net, by account; pure, time is passed in.

When an address or a net is full, it is refused before any password is looked at; an account that is full is only
slowed down, so that nobody can lock another out. Passwords that are looked at together, before the first of them
has failed, are all counted against their source: it is refused for longer. SMTP AUTH, IMAP and POP3 share one
Throttle a worker. It tells every failure, and who goes on while it is refused, to who may ban (gate.bans).
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, Protocol

from gatepost.base.address import fold
from gatepost.base.clock import DAY, HOUR, MINUTE, Instant
from gatepost.gate.bans import Rate
from gatepost.intake.settings import IntakeSettings

FIRST_DELAY: Final = 2.0
DELAY_MAX: Final = 15.0


class Failures(Protocol):
    """Who hears of failed logins in all protocols, and may ban: gate.bans.Doorkeeper."""

    def login_failed(self, ip: str, now: Instant) -> None: ...
    def login_refused(self, ip: str, now: Instant) -> None: ...


class Unheard:
    """Nobody hears of them."""

    def login_failed(self, ip: str, now: Instant) -> None:
        """Do nothing."""

    def login_refused(self, ip: str, now: Instant) -> None:
        """Do nothing."""


class Throttle:
    """All rates of one worker: failed logins, and mails of strangers. Loopback has none."""

    def __init__(
        self,
        settings: IntakeSettings,
        failures: Failures | None = None,
        *,
        ours: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Make it; `ours` tells who is another mail server of ours, which may bring as much as it held for us."""
        self._ours = ours
        self._failures = failures or Unheard()
        self._by_address = (
            Rate(settings.auth_failures_per_minute, MINUTE),
            Rate(settings.auth_failures_per_day, DAY),
        )
        self._by_net = Rate(settings.auth_failures_net_per_minute, MINUTE)
        self._by_account = Rate(settings.auth_failures_account_per_hour, HOUR)
        self._mails = Rate(settings.mails_per_minute, MINUTE)

    def login_allowed(self, ip: str, now: Instant) -> bool:
        """Tell whether a password from there is looked at."""
        if exempt(ip):
            return True
        address, net = source_keys(ip)
        if any(rate.full(address, now) for rate in self._by_address):
            self._failures.login_refused(ip, now)
            return False
        return not self._by_net.full(net, now)

    def login_failed(self, ip: str, user: str, now: Instant) -> None:
        """Count a wrong password."""
        self._by_account.count(_account_key(user), now)
        if exempt(ip):
            return
        address, net = source_keys(ip)
        self._by_net.count(net, now, owed=True)
        for rate in self._by_address:
            rate.count(address, now, owed=True)
        self._failures.login_failed(ip, now)

    def delay_before(self, user: str, now: Instant) -> float:
        """Return the seconds by which an attempt at this account is slowed down."""
        return DELAY_MAX if self._by_account.full(_account_key(user), now) else 0.0

    def mail_allowed(self, ip: str, now: Instant) -> bool:
        """Count a stranger's mail; tell whether it may come now."""
        if exempt(ip) or self._ours(ip):
            return True
        address, _ = source_keys(ip)
        if self._mails.full(address, now):
            return False
        self._mails.count(address, now)
        return True


def delay_after(failures: int) -> float:
    """Return the seconds by which the answer to the n-th wrong password of a session is late: 2, 4, 8, 15."""
    return min(FIRST_DELAY * (1 << min(failures - 1, 8)), DELAY_MAX)


def source_keys(ip: str) -> tuple[str, str]:
    """Return what counts as one source, and its wider net: IPv4 /32 and /24, IPv6 /64 and /48."""
    if ":" not in ip:
        return ip, ip.rpartition(".")[0] + ".0/24"
    number = int(ip_address(ip.partition("%")[0]))
    return f"{number >> 64:x}/64", f"{number >> 80:x}/48"


def exempt(ip: str) -> bool:
    """Tell whether an address is loopback: no rates, no bans."""
    return ip.startswith("127.") or ip == "::1"


def _account_key(user: str) -> str:
    return fold(user[:320])
