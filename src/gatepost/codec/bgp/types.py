"""What a session is told of, and what it tells: its two ends, paths, events.

A prefix (NLRI, RFC 4271 §4.3) is `bytes`: its length in bits, then as many octets as it needs, the bits beyond the
length zero. Equal prefixes are equal octets. Its family is known from the event.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from gatepost.codec.bgp.message import code_text

AS_TRANS: Final = 23_456  # RFC 6793 §9
HOLD_TIME: Final = 90  # s (RFC 4271 §10)
HOLD_TIME_MIN: Final = 3


class Afi(IntEnum):
    """An address family; only unicast (SAFI 1) is spoken."""

    IPV4 = 1
    IPV6 = 2


BOTH: Final = (Afi.IPV4, Afi.IPV6)


class State(Enum):
    """RFC 4271 §8.2.2, as bgpctl spells them. A Session begins in OpenSent; the three before are the driver's."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ACTIVE = "Active"
    OPEN_SENT = "OpenSent"
    OPEN_CONFIRM = "OpenConfirm"
    ESTABLISHED = "Established"


@dataclass(frozen=True, slots=True)
class Local:
    """Our end. `hold_min`: a neighbour that wants a shorter hold time (but not 0) is refused."""

    asn: int
    bgp_id: int
    hold_time: int = HOLD_TIME
    hold_min: int = HOLD_TIME_MIN
    capabilities: bool = True
    """Offer capabilities (RFC 5492); without them only two-octet AS numbers and IPv4 are spoken."""
    families: Sequence[Afi] = BOTH


@dataclass(frozen=True, slots=True)
class Peer:
    """Their end, as configured."""

    asn: int
    enforce_first_as: bool = True
    """An external neighbour's AS must be the first of each path (RFC 4271 §6.3); route servers need False."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The graceful restart capability (RFC 4724 §3, RFC 8538 §2)."""

    time: int
    """Seconds within which it means to be back."""
    restarting: bool = False
    notification: bool = False
    families: frozenset[Afi] = frozenset()
    """What it restarts gracefully; may be none: then it only knows of End-of-RIB."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a neighbour said that it can do."""

    families: frozenset[Afi] = frozenset()
    multiprotocol: bool = False
    """It named families at all; otherwise it means IPv4 (RFC 4760 §8)."""
    route_refresh: bool = False
    four_octet_as: int | None = None
    restart: Restart | None = None
    codes: tuple[int, ...] = ()
    """All it named, in order."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return them for people, as bgpctl names them."""
        known = [f"Multiprotocol extensions: {_FAMILY_NAMES[each]}" for each in sorted(self.families)]
        if self.route_refresh:
            known.append("Route Refresh")
        if self.restart is not None:
            known.append(f"Graceful Restart: {self.restart.time} s")
        if self.four_octet_as is not None:
            known.append("4-byte AS numbers")
        return tuple(known)


_FAMILY_NAMES: Final = {Afi.IPV4: "IPv4 unicast", Afi.IPV6: "IPv6 unicast"}


@dataclass(frozen=True, slots=True)
class Path:
    """The attributes that prefixes come with. Equal attribute octets give the same object while it is cached."""

    origin: int
    """0 IGP, 1 EGP, 2 incomplete."""
    as_path: tuple[int, ...]
    """All AS numbers in order, those of sets too."""
    as_path_text: str
    """As bgpctl shows it: `65066 65043 { 1 2 }`."""
    next_hop: bytes
    """4, 16 or 32 octets; never checked, for nothing is ever routed there."""
    med: int | None = None
    local_pref: int | None = None
    communities: tuple[int, ...] = ()
    """AS << 16 | value (RFC 1997)."""
    large_communities: tuple[tuple[int, int, int], ...] = ()
    """RFC 8092."""
    extended_communities: tuple[bytes, ...] = ()
    """Eight octets each (RFC 4360)."""

    @property
    def next_hop_text(self) -> str:
        """Return the (global) next hop for people."""
        if len(self.next_hop) == 4:
            return str(IPv4Address(self.next_hop))
        return str(IPv6Address(self.next_hop[:16]))


@dataclass(frozen=True, slots=True)
class Established:
    """The session is up. `hold_time` was negotiated, 0 is for ever."""

    peer_capabilities: Capabilities
    hold_time: int
    remote_id: int
    families: frozenset[Afi] = frozenset({Afi.IPV4})
    """What both ends speak."""


@dataclass(frozen=True, slots=True)
class Update:
    """Prefixes of one family that came or went; those withdrawn go first, for one may be in both (RFC 4271 §4.3).

    An UPDATE gives one for each family it speaks of; two, where it announces IPv4 at both places it could stand.
    """

    afi: Afi
    announced: tuple[bytes, ...]
    withdrawn: tuple[bytes, ...]
    path: Path | None
    """None where nothing is announced."""


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """All that the neighbour has of a family was announced (RFC 4724 §2)."""

    afi: Afi


@dataclass(frozen=True, slots=True)
class RefreshAsked:
    """The neighbour wants all of a family announced anew (RFC 2918); there is nothing to announce."""

    afi: Afi


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something wrong that the session survives (RFC 7606): for the log."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; what is left of the output may still be sent, then the connection is to be closed.

    `code` 0: no NOTIFICATION was sent or received, the connection broke. `graceful`: the neighbour has asked that
    its routes be kept while it restarts (RFC 4724 §4.2, RFC 8538 §4).
    """

    by_us: bool
    code: int
    subcode: int
    text: str = ""
    graceful: bool = False

    @property
    def why(self) -> str:
        """Return it for people."""
        if not self.code:
            return self.text or "the connection was lost"
        name = code_text(self.code, self.subcode)
        told = f"{name} ({self.text})" if self.text else name
        return f"we said: {told}" if self.by_us else f"it said: {told}"


Event = Established | Update | EndOfRib | RefreshAsked | Complaint | Ended


@dataclass(slots=True)
class Counts:
    """How many messages of each kind were sent or received."""

    opens: int = 0
    notifications: int = 0
    updates: int = 0
    keepalives: int = 0
    refreshes: int = 0


@dataclass(frozen=True, slots=True)
class Opening:
    """An OPEN message (RFC 4271 §4.2)."""

    asn: int
    """The real one: that of the capability where there is one (RFC 6793 §4.1)."""
    hold_time: int
    bgp_id: int
    capabilities: Capabilities = field(default_factory=Capabilities)
