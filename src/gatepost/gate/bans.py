"""Who fails too often is banned, whatever protocol it speaks: failures of all of them are counted together here.

    SMTP AUTH, IMAP, POP3 --login_failed, login_refused--> Doorkeeper --offended--> Bans --Ban--> the gate's table
    SMTP's early talkers ... ------misbehaved----------------^

`Bans` is pure. It counts by address (IPv4 /32, IPv6 /64) and by net (/24, /48); a count drains evenly over
`within`. What becomes full is banned: its entry in the overload table closes every port to it and cuts what it has,
until gate.release lets it go after `ban_time`. What the gate shields (exempt networks, nospamd, our backups) is
never banned, and no net that such an address lies in. Accounts are never locked: attempts at them are slowed down
(intake.auth), or anybody could lock their owners out.

Each worker counts for itself, and all read the same table. Connections to port 25 of one source always meet the
same worker, those to other ports any of them: there N workers let through up to N times the failures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gatepost.base.clock import Instant, seconds
from gatepost.base.units import Seconds, seconds_text
from gatepost.gate.prefix import NET_LENGTHS, SENDER_LENGTHS, Prefix, cut, number_of

KEYS_MAX: Final = 100_000
TABLE: Final = "bruteforce"
PASSWORD: Final = "wrong password"  # noqa: S105  (an offence, not a password)
REFUSED: Final = "login while refused"


@dataclass(frozen=True, slots=True)
class BanSettings:
    """Who is banned for failing too often, and for how long: `[gate.bans]`."""

    failures: int = 50
    """Failures of one IPv4 address or IPv6 /64 within `within`: wrong passwords in any protocol, and SMTP clients
    that behave as no mail server does. 0: never."""

    net_failures: int = 200
    """The same of a whole /24 or IPv6 /48, which is then banned whole; 0: never."""

    within: Seconds = Seconds(3600)
    """The time in which failures are forgotten, evenly."""

    misdeeds: bool = True
    """Count early talkers, other protocols and the like; false counts wrong passwords only."""

    table: str = TABLE
    """The table that they are put into."""

    ban_time: Seconds = Seconds(86_400)
    """How long an entry stays in the overload tables, also those that `gatepost tables add` made; 0: until somebody
    deletes it."""

    def __post_init__(self) -> None:
        if self.failures < 0 or self.net_failures < 0:
            raise ValueError("failures and net_failures are counts; 0 is no limit")
        if self.within < 1:
            raise ValueError("within must be at least 1 s")
        if not self.table:
            raise ValueError("a ban needs a table")


@dataclass(frozen=True, slots=True)
class Ban:
    """A source to be shut out: its network, the table, and why, for the operator; `cut` ends what it has open."""

    prefix: Prefix
    table: str
    reason: str
    cut: bool = True


class Rate:
    """One limit for many keys; what has drained is forgotten, at most KEYS_MAX keys are kept.

    It lets `most` happen within `period` microseconds and forgets evenly: the level drains at most/period.
    """

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

    def forget(self, key: str) -> None:
        """Begin anew with a key."""
        self._levels.pop(key, None)

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


class Bans:
    """The counts of one worker; `shielded` tells whether a network holds somebody who must never be banned."""

    def __init__(self, settings: BanSettings, shielded: Callable[[Prefix], bool]) -> None:
        self.settings = settings
        self._shielded = shielded
        period = seconds(settings.within)
        self._scopes = (
            (NET_LENGTHS, settings.net_failures, Rate(settings.net_failures, period)),
            (SENDER_LENGTHS, settings.failures, Rate(settings.failures, period)),
        )

    def offended(self, ip: str, what: str, now: Instant) -> Ban | None:
        """Count a failure; return who is to be banned for it, the net before the address."""
        version, number = number_of(ip)
        if self._shielded(cut(version, number, SENDER_LENGTHS[version])):
            return None
        found: Ban | None = None
        for lengths, most, rate in self._scopes:
            prefix = cut(version, number, lengths[version])
            rate.count(prefix.text, now)
            if found is None and rate.full(prefix.text, now) and not self._shielded(prefix):
                rate.forget(prefix.text)
                found = Ban(prefix, self.settings.table, self._reason(most, what))
        return found

    def _reason(self, most: int, what: str) -> str:
        return f"{most} failures within {seconds_text(self.settings.within)}, the last: {what}"


class Gate(Protocol):
    """What bans need of the gate."""

    def shields(self, prefix: Prefix) -> bool: ...
    def ban(self, ban: Ban) -> None: ...


class Doorkeeper:
    """Hears of failures from every protocol, and has the gate ban who fails too often."""

    def __init__(self, settings: BanSettings, gate: Gate) -> None:
        self._gate = gate
        self._bans = Bans(settings, gate.shields)

    def renew(self, settings: BanSettings) -> None:
        """Take other settings; where they differ the counts begin anew."""
        if settings != self._bans.settings:
            self._bans = Bans(settings, self._gate.shields)

    def login_failed(self, ip: str, now: Instant) -> None:
        """A wrong password, in any protocol."""
        self._hear(ip, PASSWORD, now)

    def login_refused(self, ip: str, now: Instant) -> None:
        """Another attempt of an address whose passwords are not looked at for now."""
        self._hear(ip, REFUSED, now)

    def misbehaved(self, ip: str, what: str, now: Instant) -> None:
        """Something that no mail server does (intake.ports.Watch)."""
        if self._bans.settings.misdeeds:
            self._hear(ip, what, now)

    def _hear(self, ip: str, what: str, now: Instant) -> None:
        ban = self._bans.offended(ip, what, now)
        if ban is not None:
            self._gate.ban(ban)


def touches(prefix: Prefix, other: Prefix) -> bool:
    """Tell whether two networks have an address in common: one of them lies in the other."""
    return prefix.holds(other.version, other.number) or other.holds(prefix.version, prefix.number)
