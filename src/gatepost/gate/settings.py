"""The gate's settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from gatepost.base.clock import seconds
from gatepost.base.units import Seconds
from gatepost.codec.spamd.dialogue import DEFAULT_NAME
from gatepost.gate.bans import BanSettings
from gatepost.gate.dnslists import DnsSettings
from gatepost.gate.kernel.settings import KernelSettings


class Mode(Enum):
    """How senders that no table knows are met."""

    FRIENDLY = "friendly"
    SPAMD = "spamd"


class Ipv6(Enum):
    """What becomes of IPv6 senders that no table knows."""

    BYPASS = "bypass"
    GREYLIST = "greylist"
    BLOCK = "block"


class TooEarlyAction(Enum):
    """What becomes of a grey client that speaks before its banner was said."""

    IGNORE = "ignore"
    TARPIT = "tarpit"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class RateSettings:
    """How many connections a source may have: `[gate.rates.KIND]`, PF's max-src-conn and max-src-conn-rate."""

    connections: int = 0
    """At the same time; 0 is no limit."""

    count: int = 0
    """New ones within `within`; 0 is no limit."""

    within: Seconds = Seconds(5)
    """The time in which `count` is meant, in whole seconds."""

    total: int = 0
    """Connections of all sources together, PF's max; 0 is no limit. Who comes then is closed, and not banned."""

    overload: str = "bruteforce"
    """The table that an offender is put into; empty only closes the connection."""


def _article_rates() -> Mapping[str, RateSettings]:
    submission, reading = RateSettings(50, 25), RateSettings(50, 50)
    readers = dict.fromkeys(("imap", "imaps", "pop3", "pop3s"), reading)
    return {"submission": submission, "submissions": submission, **readers}


@dataclass(frozen=True, slots=True)
class FriendlySettings:
    """Greylisting in friendly mode: `[gate.friendly]`."""

    pass_time: Seconds = Seconds(60)
    """How long a sender must wait before its retry is accepted."""

    grey_time: Seconds = Seconds(86_400)
    """How long a first attempt is remembered."""

    white_time: Seconds = Seconds(36 * 86_400)
    """How long a good past lasts after the last mail, and an address that our users wrote to is excused."""

    identity_time: Seconds = Seconds(5)
    """How long SPF may take to say who a sender is; after that it is its network."""

    announced: str = ""
    """A table of the prefixes that are announced in the Internet, filled by BGP: hosts of one prefix are one
    sender. Empty: hosts of one /24 or IPv6 /64 are."""

    scale: float = 1.0
    """Run these times this many times faster: for demonstrations."""

    def __post_init__(self) -> None:
        if self.grey_time <= self.pass_time:
            raise ValueError("grey_time must be longer than pass_time, or no retry would ever count")
        if self.scale <= 0:
            raise ValueError("scale must be more than 0")


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Who may speak, how fast: `[gate]`. The defaults of spamd mode are spamd's, the rules are the article's."""

    mode: Mode = Mode.FRIENDLY
    """`friendly`: unknown senders speak with the mail server, which puts them off with 451 at RCPT until they come
    back; who has a good past, or was written to by our users, does not wait. `spamd`: they are held and stuttered
    at exactly as OpenBSD's spamd does. Senders on a list are tarpitted in both."""

    friendly: FriendlySettings = field(default_factory=FriendlySettings)
    """Friendly mode's times and identities."""

    rules: str = ""
    """A pf.conf to decide by, instead of the rules of docs/gate.md; `gatepost pf check FILE` says what counts."""

    outside: tuple[str, ...] = ()
    """The interfaces, as the pf.conf names them, that mail comes in on; not needed where it says egress."""

    connection_log: str = ""
    """A file with a line for every connection of a known sender to port 25 and for each that we make, as PF's
    pflog1 had them."""

    greylist: bool = True
    """Meet senders that no table knows with the greylist; false lets them through."""

    exempt: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks that are never greylisted, limited or banned (PF's `set skip on lo`, and networks of your own)."""

    backups: tuple[str, ...] = ()
    """Our other mail servers, addresses or networks: they are members of nospamd, and never banned."""

    ipv6: Ipv6 | None = None
    """`bypass`: IPv6 senders go straight to the mail server; `greylist` them by /64, or `block` them. Not set, it
    is greylist in friendly mode and bypass in spamd mode."""

    pass_time: Seconds = Seconds(25 * 60)
    """spamd mode: how long a sender must wait before its retry counts (spamd -G, the first number)."""

    grey_time: Seconds = Seconds(4 * 3600)
    """spamd mode: how long a first attempt is remembered (spamd -G, the second number)."""

    white_time: Seconds = Seconds(36 * 86_400)
    """How long a sender stays white after its last mail (spamd -G, the third number)."""

    trap_time: Seconds = Seconds(86_400)
    """How long a sender that wrote to a spamtrap stays black."""

    scan_interval: Seconds = Seconds(60)
    """How often the greylist is looked through: what passed becomes white then."""

    stutter: Seconds = Seconds(1)
    """Delay of each letter to black and grey senders; 0 stutters at nobody (spamd -s)."""

    grey_stutter: Seconds = Seconds(10)
    """After this long a grey sender is spoken to at full speed; 0 never stutters at grey ones (spamd -S)."""

    connections: int = 10_000
    """Grey and black connections held at the same time in one worker; more are closed without a word (spamd -c)."""

    black_connections: int = 9_900
    """Above this many black ones, further black senders are no longer stuttered at (spamd -B); where it is not
    below `connections`, it is 100 less than those."""

    source_connections: int = 5
    """Held at the same time of one IPv4 address or IPv6 /64; 0 is no limit."""

    timeout: Seconds = Seconds(400)
    """How long a held client may take for a line."""

    too_early: TooEarlyAction = TooEarlyAction.TARPIT
    """A grey client that speaks before its banner is no mail server. `ignore` that as spamd does; `tarpit`: stutter
    to its end and do not remember its attempts; or `refuse` it with 554."""

    starttls: bool = False
    """Offer STARTTLS to held clients that are on no list, with the server's certificates (spamd -C, -K)."""

    banner: str = DEFAULT_NAME
    """What stands behind ESMTP in the banner (spamd -n)."""

    refuse_code: int = 450
    """What a black sender is answered: 450, or 550 (spamd -5)."""

    verbose: bool = True
    """Log senders, recipients and header lines of held clients (spamd -v): personal data."""

    trap_domains: tuple[str, ...] = ()
    """When not empty, every recipient that does not end in one of these is a spamtrap (spamd.alloweddomains)."""

    low_priority_mx: str = ""
    """The address of our least preferred MX: who comes there first writes to a trap (spamd -M)."""

    rows: int = 1_000_000
    """Records the greylist holds at most; beyond, those that did not come back go first, the oldest first."""

    net_rows: int = 1_000
    """The same for one /24 or IPv6 /48."""

    tables_max: int = 400_000
    """Entries of all tables together."""

    tables: Mapping[str, str] = field(default_factory=dict)
    """Files that fill tables, by table: `nospamd = "/etc/gatepost/nospamd"`; one address or network a line."""

    dns: DnsSettings = field(default_factory=DnsSettings)
    """Lists of senders that are asked by DNS."""

    bans: BanSettings = field(default_factory=BanSettings)
    """Who is banned for failing too often."""

    kernel: KernelSettings = field(default_factory=KernelSettings)
    """The gate in the kernel too."""

    messages: Mapping[str, str] = field(default_factory=dict)
    """What senders in a table are told, by table; %A is their address."""

    rates: Mapping[str, RateSettings] = field(default_factory=_article_rates)
    """Limits a source by kind of listener."""

    scale: float = 1.0
    """Run all times above this many times faster, but those of `rates` and `friendly`: for demonstrations."""

    def __post_init__(self) -> None:
        if self.refuse_code not in (450, 550):
            raise ValueError("refuse_code is 450 or 550")
        if not 0 <= self.stutter <= 10:
            raise ValueError("stutter must be between 0 and 10 s")
        if not 0 <= self.grey_stutter <= 90:
            raise ValueError("grey_stutter must be between 0 and 90 s")
        if self.grey_time <= self.pass_time:
            raise ValueError("grey_time must be longer than pass_time, or no retry would ever count")
        if self.scale <= 0:
            raise ValueError("scale must be more than 0")

    def quick(self, length: Seconds) -> float:
        """Return a length of time in seconds, scaled."""
        return length / self.scale

    def micro(self, length: Seconds) -> int:
        """Return a length of time in microseconds, scaled."""
        return seconds(length / self.scale)

    @property
    def unlisted_ipv6(self) -> Ipv6:
        """What becomes of IPv6 senders that no table knows."""
        if self.ipv6 is not None:
            return self.ipv6
        return Ipv6.GREYLIST if self.mode is Mode.FRIENDLY else Ipv6.BYPASS

    @property
    def black_places(self) -> int:
        """How many black connections are stuttered at."""
        if self.black_connections < self.connections:
            return self.black_connections
        return max(0, self.connections - 100)
