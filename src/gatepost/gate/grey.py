"""The greylist's rules (spamd.8, grey.c): pure functions of a record and the time.

nothing --first offer--> GREY --a retry later than pass_time--> passed --the scan--> WHITE (the host)
GREY and nothing more until grey_time after the first offer --> nothing; a retry never makes it last longer
WHITE and no mail for white_time --> nothing
any offer to a spamtrap --> TRAPPED (the host) for trap_time --> nothing
"""

from dataclasses import dataclass, replace
from enum import Enum
from hashlib import blake2b
from typing import Final

from gatepost.base.address import fold
from gatepost.base.clock import Instant, later, seconds
from gatepost.base.units import Seconds
from gatepost.gate.prefix import NET_LENGTHS, cut, number_of, parse_prefix, sender_prefix
from gatepost.gate.settings import GateSettings

TRAPPED: Final = -1  # of `passed`, as in spamd's database
SPAMTRAP: Final = -2
NEVER: Final = Instant((1 << 63) - 1)
WHITE_BY_HAND: Final = seconds(36 * 86_400)  # spamdb -a, whatever spamd's own -G says
STARTING_GRACE: Final = Seconds(60)


class State(Enum):
    """What a record says of its host: spamdb's words, then those of friendly greylisting."""

    GREY = "GREY"
    WHITE = "WHITE"
    TRAPPED = "TRAPPED"
    SPAMTRAP = "SPAMTRAP"
    ATTEMPT = "ATTEMPT"
    GOOD = "GOOD"
    WROTE = "WROTE"
    EXPECTED = "EXPECTED"


class Kind(Enum):
    """What a record's key is."""

    TUPLE = 0
    HOST = 1
    TRAP = 2
    ATTEMPT = 3
    """Friendly: the first attempt of an identity from a sender to a recipient."""
    GOOD = 4
    """Friendly: an identity with a good past."""
    WROTE = 5
    """Friendly: an address that our users wrote to."""
    EXPECTED = 6
    """Friendly: an account that expects a mail."""


SPAMD_KINDS: Final = (Kind.TUPLE, Kind.HOST, Kind.TRAP)


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `passes` is when it passes (its end, while no retry came in time)."""

    key: bytes
    kind: Kind
    ip: str
    first: Instant
    passes: Instant
    expires: Instant
    blocked: int = 1
    passed: int = 0

    @property
    def state(self) -> State:
        """Return spamdb's word for it."""
        if self.kind not in SPAMD_KINDS:
            return State(self.kind.name)
        if self.kind is Kind.TRAP:
            return State.SPAMTRAP
        if self.passed == TRAPPED:
            return State.TRAPPED
        return State.WHITE if self.kind is Kind.HOST else State.GREY


def source(ip: str) -> str:
    """Return what counts as one sender: an IPv4 address, or the /64 of an IPv6 one."""
    return sender_prefix(*number_of(ip)).text


def net(ip: str) -> str:
    """Return the network of a sender whose records are counted together: /24 or /48."""
    prefix = parse_prefix(ip)
    return cut(prefix.version, prefix.number, min(prefix.length, NET_LENGTHS[prefix.version])).text


def digest(key: bytes) -> bytes:
    """Return what a record is found by: keys may be 3 KB long, too long for an index."""
    return blake2b(key, digest_size=16).digest()


def tuple_key(ip: str, helo: bytes, sender: bytes, recipient: bytes) -> bytes:
    """Return the key of a tuple: the four with line feeds between, as spamd keeps them."""
    return b"\n".join((ip.encode(), helo, sender, recipient))


def trap_name(recipient: bytes) -> str:
    """Return the form in which a recipient is looked for among the spamtraps."""
    text = recipient.decode("utf-8", "replace")
    return fold(text.removeprefix("<").removesuffix(">"))


def outside(name: str, domains: tuple[str, ...]) -> bool:
    """Tell whether a recipient ends in none of the allowed domains (a plain suffix, as in spamd.alloweddomains)."""
    return bool(domains) and not any(name.endswith(fold(domain)) for domain in domains)


def first_offer(key: bytes, ip: str, now: Instant, settings: GateSettings, *, trap: bool) -> Record:
    """Return the record that a first offer makes: of the tuple, or of the trapped host.

    `passes` begins as `expires`: only a retry makes a tuple pass, never mere waiting.
    """
    expires = later(now, settings.micro(settings.trap_time if trap else settings.grey_time))
    if trap:
        return Record(ip.encode(), Kind.HOST, ip, now, expires, expires, passed=TRAPPED)
    return Record(key, Kind.TUPLE, ip, now, expires, expires)


def seen(record: Record | None, fresh: Record, now: Instant, settings: GateSettings) -> Record:
    """Return the record after one more offer; `fresh` is what a first one makes. It never lasts longer for it."""
    if record is None:
        return fresh
    passes = now if record.first + settings.micro(settings.pass_time) < now else record.passes
    return replace(record, blocked=record.blocked + 1, passed=fresh.passed, passes=passes)


def expired(record: Record, now: Instant) -> bool:
    """Tell whether the scan drops it."""
    return record.kind is not Kind.TRAP and record.expires <= now


def has_passed(record: Record, now: Instant) -> bool:
    """Tell whether the scan makes its host white, unless that is trapped or listed."""
    return record.kind is not Kind.TRAP and record.passed >= 0 and record.passes <= now < record.expires


def promoted(record: Record, now: Instant, settings: GateSettings) -> Record:
    """Return the record of a host whose tuple passed: the tuple's, for `white_time` from now."""
    expires = later(now, settings.micro(settings.white_time))
    return replace(record, key=record.ip.encode(), kind=Kind.HOST, expires=expires, passed=0)


def white_by_hand(record: Record | None, ip: str, now: Instant) -> Record:
    """Return a host's record after spamdb -a."""
    expires = later(now, WHITE_BY_HAND)
    if record is None:
        return Record(ip.encode(), Kind.HOST, ip, now, now, expires)
    return replace(record, passes=now, expires=expires, passed=record.passed + 1)


def trapped_by_hand(record: Record | None, ip: str, now: Instant, settings: GateSettings) -> Record:
    """Return a host's record after spamdb -t -a."""
    expires = later(now, settings.micro(settings.trap_time))
    if record is None:
        return Record(ip.encode(), Kind.HOST, ip, now, now, expires, passed=TRAPPED)
    return replace(record, passes=now, expires=expires, passed=TRAPPED)


def mailed(record: Record | None, ip: str, now: Instant, settings: GateSettings) -> Record:
    """Return a host's record after it mailed us, or we contacted it (spamlogd): white at once, and for longer.

    A trapped host stays trapped; spamlogd would make it white.
    """
    expires = later(now, settings.micro(settings.white_time))
    if record is None:
        return Record(ip.encode(), Kind.HOST, ip, now, now, expires)
    if record.passed < 0:
        return record
    return replace(record, expires=expires, passed=record.passed + 1)


def first_at_low_priority(dialled: str, started: Instant, now: Instant, settings: GateSettings) -> bool:
    """Tell whether a tuple never seen before is a trap here: no mail server begins at the least preferred MX
    (spamd -M), but in our first minute we may have missed its attempt at the others.
    """
    grace = settings.micro(STARTING_GRACE)
    return bool(settings.low_priority_mx) and dialled == settings.low_priority_mx and now > started + grace
