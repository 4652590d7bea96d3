"""The greylist's rules (spamd.8, grey.c): pure functions of a record and the time.

nothing --first offer--> GREY --a retry later than pass_time--> passed --the scan--> WHITE (the host)
GREY and nothing more until grey_time after the first offer --> nothing; a retry never makes it last longer
WHITE and no mail for white_time --> nothing
any offer to a spamtrap --> TRAPPED (the host) for trap_time --> nothing
"""

from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Final

from gatepost.base.address import fold
from gatepost.base.clock import Instant, later, seconds
from gatepost.gate.settings import GateSettings

TRAPPED: Final = -1  # of `passed`, as in spamd's database
SPAMTRAP: Final = -2
ROWS_MAX: Final = 1_000_000
NET_ROWS_MAX: Final = 1_000
NEVER: Final = Instant((1 << 63) - 1)
STARTING_GRACE: Final = seconds(60)


class State(Enum):
    """What a record says of its host; spamdb's words."""

    GREY = "GREY"
    WHITE = "WHITE"
    TRAPPED = "TRAPPED"
    SPAMTRAP = "SPAMTRAP"


class Kind(Enum):
    """What a record's key is."""

    TUPLE = 0
    HOST = 1
    TRAP = 2


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
        if self.kind is Kind.TRAP:
            return State.SPAMTRAP
        if self.passed == TRAPPED:
            return State.TRAPPED
        return State.WHITE if self.kind is Kind.HOST else State.GREY


def source(ip: str) -> str:
    """Return what counts as one sender: an IPv4 address, or the /64 of an IPv6 one."""
    address = ip_address(ip)
    return str(address) if address.version == 4 else str(ip_network((int(address) >> 64 << 64, 64)))


def net(ip: str) -> str:
    """Return the network whose records are counted together: /24 or /48."""
    network = ip_network(ip)
    length = 48 if isinstance(network, IPv6Network) else 24
    return str(network if network.prefixlen < length else network.supernet(new_prefix=length))


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


def seen(record: Record | None, fresh: Record, now: Instant, settings: GateSettings) -> Record:
    """Return the record after one more offer; `fresh` is what a first one makes."""
    if record is None:
        return fresh
    passes = now if record.first + seconds(settings.pass_time) < now else record.passes
    return replace(record, blocked=record.blocked + 1, passed=fresh.passed, passes=passes)


def first_offer(key: bytes, ip: str, now: Instant, settings: GateSettings, *, trap: bool) -> Record:
    """Return the record that a first offer makes: of the tuple, or of the trapped host."""
    life = settings.trap_time if trap else settings.grey_time
    expires = later(now, seconds(life))
    if trap:
        return Record(ip.encode(), Kind.HOST, ip, now, expires, expires, passed=TRAPPED)
    return Record(key, Kind.TUPLE, ip, now, expires, expires)


def white_host(
    ip: str, first: Instant, passes: Instant, blocked: int, now: Instant, settings: GateSettings
) -> Record:
    """Return the record of a host whose tuple passed."""
    return Record(ip.encode(), Kind.HOST, ip, first, passes, later(now, seconds(settings.white_time)), blocked)


def is_low_priority_trap(dialled: str, started: Instant, now: Instant, settings: GateSettings) -> bool:
    """Tell whether a new tuple came to the least preferred MX first (spamd -M), a minute after our start."""
    return bool(settings.low_priority_mx) and dialled == settings.low_priority_mx and now > started + STARTING_GRACE
