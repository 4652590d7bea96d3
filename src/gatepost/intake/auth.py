"""How many wrong passwords are too many: by address, by net, by account; pure, time is passed in.

A Rate lets `most` happen within `period` microseconds and forgets evenly: the level drains at most/period. When an
address or a net is full, it is refused before any password is looked at; an account that is full is only slowed
down, so that nobody can lock another out. Passwords that are looked at together, before the first of them has
failed, are all counted against their source: it is refused for longer.
"""

from ipaddress import ip_address
from typing import Final

from gatepost.base.address import fold
from gatepost.base.clock import DAY, HOUR, MINUTE, Instant
from gatepost.intake.settings import IntakeSettings

KEYS_MAX: Final = 100_000
FIRST_DELAY: Final = 2.0
DELAY_MAX: Final = 15.0


class Rate:
    """One limit for many keys; what has drained is forgotten, at most KEYS_MAX keys are kept."""

    __slots__ = ("_levels", "_most", "_period")

    def __init__(self, most: int, period: int) -> None:
        """Let `most` happen in `period` microseconds; 0 is no limit."""
        self._most = most
        self._period = period
        self._levels: dict[str, tuple[float, Instant]] = {}

    def full(self, key: str, now: Instant) -> bool:
        """Tell whether one more would be too many."""
        return self._most > 0 and self._level(key, now) + 1 > self._most

    def count(self, key: str, now: Instant, *, owed: bool = False) -> None:
        """Count one; above the limit it is remembered only when it is `owed`, and then drains like any other."""
        if not self._most:
            return
        level = self._level(key, now) + 1
        if key not in self._levels and len(self._levels) >= KEYS_MAX:
            self._sweep(now)
        self._levels[key] = (level if owed else min(level, float(self._most)), now)

    def _level(self, key: str, now: Instant) -> float:
        found = self._levels.get(key)
        if found is None:
            return 0.0
        level, then = found
        drained = max(0, now - then) * self._most / self._period
        return max(0.0, level - drained)

    def _sweep(self, now: Instant) -> None:
        """Forget the drained, and when none are, the older half."""
        self._levels = {key: kept for key, kept in self._levels.items() if self._level(key, now) > 0}
        if len(self._levels) >= KEYS_MAX:
            for key in list(self._levels)[: KEYS_MAX // 2]:
                del self._levels[key]


class Throttle:
    """All rates of one worker: failed logins, and mails of strangers. Loopback has none."""

    def __init__(self, settings: IntakeSettings) -> None:
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
        return not (self._by_net.full(net, now) or any(rate.full(address, now) for rate in self._by_address))

    def login_failed(self, ip: str, user: str, now: Instant) -> None:
        """Count a wrong password."""
        self._by_account.count(_account_key(user), now)
        if exempt(ip):
            return
        address, net = source_keys(ip)
        self._by_net.count(net, now, owed=True)
        for rate in self._by_address:
            rate.count(address, now, owed=True)

    def delay_before(self, user: str, now: Instant) -> float:
        """Return the seconds by which an attempt at this account is slowed down."""
        return DELAY_MAX if self._by_account.full(_account_key(user), now) else 0.0

    def mail_allowed(self, ip: str, now: Instant) -> bool:
        """Count a stranger's mail; tell whether it may come now."""
        if exempt(ip):
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
