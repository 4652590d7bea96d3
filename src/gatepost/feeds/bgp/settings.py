"""The BGP feed's settings: whom to ask, and which community fills which table."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

from gatepost.base.units import Seconds

AS_MAX: Final = (1 << 32) - 1
AS_TRANS: Final = 23_456  # RFC 6793 §9: stands for a four-octet AS, is nobody's own
PRIVATE_AS: Final = 65_500  # the article's; RFC 6996: 64512-65534
PREFIXES_MAX: Final = 1_000_000
BOGONS: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/3",
    "2001:db8::/32",
    "4000::/2",
    "8000::/1",
)
"""What is nobody's in the Internet (RFC 6890); of IPv6 only 2000::/3 was ever given out."""
TABLE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,31}")


@dataclass(frozen=True, slots=True)
class NeighborSettings:
    """One route server: `[[feeds.bgp.neighbors]]`."""

    address: str
    """Its address."""

    remote_as: int
    """Its AS number."""

    port: int = 179
    """Its TCP port."""

    description: str = ""
    """A name to show instead of the address."""

    group: str = ""
    """A word that filters can ask for."""

    multihop: int = 0
    """How many hops away it may be: the TTL of what we send. 0 is a direct neighbour: TTL 1, 255 within one AS."""

    ttl_security: bool = False
    """Send TTL 255 and refuse what came from more than `multihop` hops away (RFC 5082, GTSM)."""

    local_address: str = ""
    """The address to speak from; empty lets the system choose."""

    md5_password: str = ""
    """The password of TCP MD5 signatures (RFC 2385); at most 80 octets."""

    md5_key: str = ""
    """The same as hexadecimal octets."""

    passive: bool = False
    """Wait for it to call, never call."""

    down: bool = False
    """Do not speak with it until `gatepost bgp neighbor ADDRESS up`."""

    holdtime: Seconds | None = None
    """Another hold time for this one."""

    max_prefix: int = 0
    """Prefixes it may announce; one more ends the session (RFC 4486). A warning comes at four fifths. 0 is a
    million."""

    max_prefix_restart: Seconds = Seconds(0)
    """How long after that the session is tried again; 0: only when an operator says so."""

    enforce_neighbor_as: bool = True
    """Ignore routes whose AS path does not begin with its AS; false for route servers that do not prepend."""

    announce_capabilities: bool = True
    """Offer capabilities; false for a neighbour too old to know of them."""

    ipv4: bool = True
    """Ask for IPv4 prefixes."""

    ipv6: bool = True
    """Ask for IPv6 prefixes."""

    def __post_init__(self) -> None:
        ip_address(self.address)
        if self.local_address:
            ip_address(self.local_address)
        check_as(self.remote_as)
        if not 0 < self.port <= 65_535:
            raise ValueError("port must be between 1 and 65535")
        if not 0 <= self.multihop <= 255:
            raise ValueError("multihop must be between 1 and 255, or 0")
        if not 0 <= self.max_prefix <= PREFIXES_MAX * 10:
            raise ValueError(f"max_prefix must be between 1 and {PREFIXES_MAX * 10}, or 0")
        if len(self.key) > 80:
            raise ValueError("an MD5 key has at most 80 octets")
        if self.holdtime is not None:
            check_holdtime(self.holdtime)

    @property
    def most(self) -> int:
        """Return how many prefixes it may announce."""
        return self.max_prefix or PREFIXES_MAX

    @property
    def key(self) -> bytes:
        """Return the key of TCP MD5 signatures; empty for none."""
        return bytes.fromhex(self.md5_key) if self.md5_key else self.md5_password.encode()

    @property
    def name(self) -> str:
        """Return what it is called in lists."""
        return self.description or self.address


@dataclass(frozen=True, slots=True)
class CommunityTableSettings:
    """Which community fills which table: `[[feeds.bgp.tables]]`."""

    table: str
    """The gate's table."""

    community: str = ""
    """`65066:42`; either half may be `*`, and names such as `BLACKHOLE` are known."""

    large_community: str = ""
    """`65066:1:42` (RFC 8092)."""

    neighbor: str = ""
    """Only what this neighbour announces: an address, or `group NAME`. Empty is any."""

    message: str = ""
    """What senders in the table are told; %A is their address. Empty: `[gate.messages]` or the usual words."""

    def __post_init__(self) -> None:
        if not TABLE_NAME.fullmatch(self.table):
            raise ValueError(f"{self.table!r} is no name of a table: 31 letters, digits, _ . - at most")
        if bool(self.community) == bool(self.large_community):
            raise ValueError("give either community or large_community")


@dataclass(frozen=True, slots=True)
class BgpSettings:
    """The BGP feed: `[feeds.bgp]`. Without neighbours there is none. Nothing is ever announced, no route is set."""

    conf: str = ""
    """A bgpd.conf of OpenBGPD to read, the article's as it is. What stands here besides is added to it, and
    `asn`, `router_id` and `holdtime` here have the last word."""

    asn: int = 0
    """Our AS number; 0 takes that of `conf`, or the private 65500."""

    router_id: str = ""
    """Our BGP identifier, written as an IPv4 address; empty takes that of `conf`, or an address of this machine."""

    holdtime: Seconds | None = None
    """How long a silent neighbour is believed; not set, that of `conf`, or 90 s. 0 is for ever."""

    holdtime_min: Seconds = Seconds(3)
    """Neighbours that want a shorter hold time are refused."""

    listen: tuple[str, ...] = ()
    """Addresses, each with or without a port, at which neighbours may call us. Empty: we only call them."""

    neighbors: tuple[NeighborSettings, ...] = ()
    """The route servers."""

    tables: tuple[CommunityTableSettings, ...] = ()
    """Which community fills which table; of several that fit a prefix the last one wins, as in bgpd."""

    filters: tuple[str, ...] = ()
    """Filter rules in the words of bgpd.conf, after those of `conf` and `tables`:
    `'match from any community 65066:42 set pftable "bgp_spamd_bypass"'`."""

    shortest_ipv4: int = 16
    """Shorter IPv4 prefixes are refused, so that a mistake cannot list half of the world; 8 is the least."""

    shortest_ipv6: int = 32
    """The same for IPv6; 16 is the least."""

    refuse: tuple[str, ...] = BOGONS
    """Networks that never go into a table, nor what holds or overlaps them; this machine's own addresses do not
    either."""

    hold_on_loss: Seconds = Seconds(0)
    """How long the prefixes of a lost neighbour stay when it did not ask for graceful restart (RFC 4724)."""

    stale_time: Seconds = Seconds(180)
    """How long they stay at the most when it did."""

    def __post_init__(self) -> None:
        if self.asn:
            check_as(self.asn)
        if self.router_id and IPv4Address(self.router_id) == IPv4Address(0):
            raise ValueError("router_id must not be 0.0.0.0")
        if self.holdtime is not None:
            check_holdtime(self.holdtime)
        if self.holdtime_min < 3:
            raise ValueError("holdtime_min must be at least 3 s")
        if not 8 <= self.shortest_ipv4 <= 32:
            raise ValueError("shortest_ipv4 must be between 8 and 32")
        if not 16 <= self.shortest_ipv6 <= 128:
            raise ValueError("shortest_ipv6 must be between 16 and 128")
        for each in self.refuse:
            ip_network(each)

    @property
    def wanted(self) -> bool:
        """Tell whether there is anything to feed from."""
        return bool(self.conf or self.neighbors)


def check_as(number: int) -> None:
    """Raise ValueError where it is not an AS that somebody may have."""
    if not 0 < number <= AS_MAX or number in (AS_TRANS, 65_535, AS_MAX):
        raise ValueError(f"{number} is no usable AS number: 1 to 4294967294, but 23456 and 65535")


def check_holdtime(length: float) -> None:
    """Raise ValueError where RFC 4271 §4.2 forbids a hold time."""
    if length != 0 and not 3 <= length <= 65_535:
        raise ValueError("a hold time is 0, or between 3 and 65535 s")
