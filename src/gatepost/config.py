"""One TOML file into one Config; a mistake names file, line, key and remedy.

Each package declares its own settings; this module only lists them. docs/config.md is made from what stands here
and below each field (`python3 dev.py docs`).
"""

import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from gatepost.accounts.settings import AccountSettings
from gatepost.aio import interface
from gatepost.allowance.settings import AllowanceSettings
from gatepost.backupmx.settings import BackupSettings
from gatepost.base.settings import BadSetting, fill
from gatepost.base.units import Seconds
from gatepost.codec.dnslist import parse_zone
from gatepost.diary.settings import DiarySettings
from gatepost.feeds.settings import FeedSettings
from gatepost.gate.kernel.settings import KernelMode
from gatepost.gate.prefix import Prefix, parse_prefix
from gatepost.gate.settings import GateSettings
from gatepost.intake.settings import IntakeSettings
from gatepost.judge.settings import JudgeSettings
from gatepost.policy.settings import PolicySettings
from gatepost.queue.settings import QueueSettings
from gatepost.relay.settings import RelaySettings
from gatepost.tlsrpt.settings import ReportSettings
from gatepost.view.settings import ViewSettings
from gatepost.web.mtasts import OwnPolicySettings
from gatepost.web.settings import WebSettings

_SERVER: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
TIME_PORT: Final = 123
_TABLE: Final = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")
_INTERFACE: Final = re.compile(r"(?=.*[^0-9.])[^:/\s\[\]]{1,15}")  # netdevice(7): IFNAMSIZ is 16
_SYNTAX_LINE: Final = re.compile(r"\(at line ([0-9]+)")


class ConfigError(Exception):
    """A configuration that cannot be used; its text is for the operator."""

    def __init__(self, file: Path, line: int, problem: str) -> None:
        super().__init__(f"{file}:{line}: {problem}" if line else f"{file}: {problem}")
        self.file = file
        self.line = line
        self.problem = problem


class Kind(Enum):
    """What a listener speaks."""

    MX = "mx"
    SUBMISSION = "submission"
    SUBMISSIONS = "submissions"
    LMTP = "lmtp"
    IMAP = "imap"
    IMAPS = "imaps"
    POP3 = "pop3"
    POP3S = "pop3s"
    HTTPS = "https"
    SPAMD = "spamd"

    @property
    def implicit_tls(self) -> bool:
        """Tell whether TLS begins with the first octet."""
        return self in (Kind.SUBMISSIONS, Kind.IMAPS, Kind.POP3S, Kind.HTTPS)


PORTS: Final = {
    Kind.MX: 25,
    Kind.SUBMISSION: 587,
    Kind.SUBMISSIONS: 465,
    Kind.LMTP: 24,
    Kind.IMAP: 143,
    Kind.IMAPS: 993,
    Kind.POP3: 110,
    Kind.POP3S: 995,
    Kind.HTTPS: 443,
    Kind.SPAMD: 8025,
}


class ClientCertificates(Enum):
    """Whether the clients of a listener show certificates."""

    NO = "no"
    ASK = "ask"
    REQUIRE = "require"


class Role(Enum):
    """What a server is for."""

    PRIMARY = "primary"
    BACKUP_MX = "backup-mx"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The server itself: `[server]`."""

    role: Role = Role.PRIMARY
    """`primary`: a whole mail server. `backup-mx`: one that holds mail for another while that is away. It listens
    on port 25 only, unless [listen] says otherwise; what it takes, and for whom, its [policy] says."""

    hostname: str = ""
    """The name that greets and signs results; empty is the machine's own full name."""

    data_dir: str = "/var/lib/gatepost"
    """Where everything is kept: databases, large bodies, keys, sockets."""

    workers: int = 0
    """Processes that speak with the world; 0 is one for each processor."""

    user: str = ""
    """The user to become after the ports are open, when started by root."""

    log: str = "text"
    """`text` for people or `json` for programs, always on standard error."""

    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 64:
            raise ValueError("workers must be between 0 and 64")
        if self.log not in ("text", "json"):
            raise ValueError("log must be 'text' or 'json'")
        if self.log_level not in ("debug", "info", "warning", "error"):
            raise ValueError("log_level must be debug, info, warning or error")


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """One listener: `[listen.NAME]`. Without any, the usual ports are opened on all addresses."""

    kind: Kind
    """mx, submission, submissions, lmtp, imap, imaps, pop3, pop3s, https; or spamd: where a packet filter redirects
    who is to be held."""

    address: tuple[str, ...] = ("0.0.0.0", "::")  # noqa: S104  (a mail server is there for everybody)
    """Addresses, each with or without a port: `192.0.2.1`, `192.0.2.1:2525`, `[2001:db8::1]:25`; port 0 lets the
    system choose. The name of an interface, `eth0` or `eth0:2525`, stands for all addresses that it has at the
    start, but link-local ones."""

    tag: str = ""
    """A word that rules can ask for: `match = { tag = "SPAM_IN" }`."""

    proxy: tuple[str, ...] = ()
    """Networks of balancers whose connections begin with a PROXY header (version 1 or 2) that is believed, e.g.
    `192.0.2.10/32`; name only those that always send one."""

    client_certificates: ClientCertificates = ClientCertificates.NO
    """Whether clients show a certificate in their TLS handshake: `no`, `ask` (whose holds is named in the Received
    field and the mail's story; whose does not is refused) or `require`, where there is no way around TLS. Not for
    kind mx. Rules know such clients by the listener's `tag`."""

    client_authorities: str = ""
    """A PEM file with the authorities whose certificates count. It is read again with the server's own."""


@dataclass(frozen=True, slots=True)
class CertificateSettings:
    """One certificate: `[[tls.certificates]]`. Clients are served by the name they ask for."""

    certificate: str
    """A PEM file with the chain, the server's own certificate first."""

    key: str
    """A PEM file with the private key."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Certificates: `[tls]`. Without any, a self-signed one is made, and the log says so loudly."""

    certificates: tuple[CertificateSettings, ...] = ()
    """The certificates; the first serves those who ask for no name, or an unknown one."""

    mta_sts: OwnPolicySettings = field(default_factory=OwnPolicySettings)
    """What other mail servers are told of the TLS of our domains (MTA-STS)."""

    reports: ReportSettings = field(default_factory=ReportSettings)
    """What is kept of how TLS to other mail servers went (TLS-RPT)."""


@dataclass(frozen=True, slots=True)
class ResolverSettings:
    """The DNS: `[resolver]`."""

    servers: tuple[str, ...] = ()
    """Resolvers, `127.0.0.1` or `127.0.0.1:5353`; empty reads /etc/resolv.conf."""

    trusted: bool = False
    """Believe the AD bit of a resolver that is not on this machine."""


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What `gatepost doctor` asks of the world: `[watch]`."""

    addresses: tuple[str, ...] = ()
    """The public addresses of this server, where it stands behind NAT and cannot know them."""

    lists: tuple[str, ...] = (
        "zen.spamhaus.org",
        "bl.spamcop.net",
        "b.barracudacentral.org",
        "bl.mailspike.net",
        "psbl.surriel.com",
    )
    """DNS lists on which our addresses must not stand. Most answer only to a resolver of one's own."""

    outside: str = "gmail-smtp-in.l.google.com:25"
    """A mail server that is greeted and left, to see whether mail gets out by port 25; empty: none."""

    time: str = "pool.ntp.org"
    """A time server (SNTP) to which the clock is compared, with a port if it is not 123; empty: none."""

    certificate_days: int = 21
    """From how many days before its end on a certificate is a warning; in the last week it is a problem."""

    every: Seconds = Seconds(3600)
    """How long `gatepost doctor --watch` waits between two looks."""

    def __post_init__(self) -> None:
        for zone in self.lists:
            parse_zone(zone)
        for ip in self.addresses:
            ip_address(ip)
        for text, port in ((self.outside, PORTS[Kind.MX]), (self.time, TIME_PORT)):
            if text:
                server_of(text, port)
        if not 60 <= self.every <= 7 * 86_400:
            raise ValueError("every must be between a minute and a week")
        if not 7 <= self.certificate_days <= 365:
            raise ValueError("certificate_days must be between 7 and 365")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    server: ServerSettings = field(default_factory=ServerSettings)
    listen: Mapping[str, ListenSettings] = field(default_factory=dict)
    tls: TlsSettings = field(default_factory=TlsSettings)
    resolver: ResolverSettings = field(default_factory=ResolverSettings)
    accounts: AccountSettings = field(default_factory=AccountSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    intake: IntakeSettings = field(default_factory=IntakeSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    allowance: AllowanceSettings = field(default_factory=AllowanceSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    relay: RelaySettings = field(default_factory=RelaySettings)
    view: ViewSettings = field(default_factory=ViewSettings)
    diary: DiarySettings = field(default_factory=DiarySettings)
    feeds: FeedSettings = field(default_factory=FeedSettings)
    web: WebSettings = field(default_factory=WebSettings)
    backup: BackupSettings = field(default_factory=BackupSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)

    @property
    def hostname(self) -> str:
        """Return the server's name."""
        return self.server.hostname or socket.getfqdn()

    @property
    def data_dir(self) -> Path:
        """Return where everything is kept."""
        return Path(self.server.data_dir)

    @property
    def listeners(self) -> Mapping[str, ListenSettings]:
        """Return the listeners, the usual ones where none is named."""
        if self.listen:
            return self.listen
        usual: tuple[Kind, ...] = (Kind.MX,)
        if self.server.role is Role.PRIMARY:
            usual += Kind.SUBMISSION, Kind.SUBMISSIONS, Kind.IMAP, Kind.IMAPS
        return {kind.value: ListenSettings(kind) for kind in usual}


def load(path: Path) -> Config:
    """Read and check a configuration; raises ConfigError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            path, 0, "there is no such file (examples/home/gatepost.toml is one to begin with)"
        ) from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConfigError(path, 0, f"it cannot be read: {wrong}") from wrong
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Read a configuration from its text; `path` is only for messages."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        found = _SYNTAX_LINE.search(str(wrong))
        raise ConfigError(path, int(found[1]) if found else 0, f"this is not TOML: {wrong}") from wrong
    try:
        config = fill(Config, given)
        for name, listener in config.listen.items():
            for at, address in enumerate(listener.address):
                bound(address, PORTS[listener.kind], ("listen", name, "address", at))
            _check_clients(listener, ("listen", name))
            for at, network in enumerate(listener.proxy):
                parse_network(network, ("listen", name, "proxy", at))
        _check_kernel(config)
    except BadSetting as wrong:
        raise located(wrong, text, path) from wrong
    return config


def _check_clients(listener: ListenSettings, path: tuple[str, ...]) -> None:
    """See that certificates of clients can be checked, and that who must show one cannot go without TLS."""
    asked = listener.client_certificates
    if (asked is ClientCertificates.NO) != (not listener.client_authorities):
        why = "client_certificates and client_authorities go together"
        raise BadSetting((*path, "client_certificates"), why, "give both, or neither")
    if asked is not ClientCertificates.NO and listener.kind is Kind.MX:
        why = "mail servers show certificates of many authorities, and would be refused"
        raise BadSetting((*path, "client_certificates"), why, "listen as submission or submissions for this")
    if asked is ClientCertificates.REQUIRE and not (listener.kind.implicit_tls or listener.kind is Kind.SUBMISSION):
        why = (
            f"a listener of kind {listener.kind.value} can be used without TLS, so it cannot require a certificate"
        )
        remedy = "ask for one, or listen as submission, submissions, imaps, pop3s or https"
        raise BadSetting((*path, "client_certificates"), why, remedy)


def _check_kernel(config: Config) -> None:
    """See that somebody listens where the kernel redirects to: else unknown senders would be refused."""
    port = config.gate.kernel.port
    taken = any(
        here == port
        for each in config.listeners.values()
        for address in each.address
        for _, here in bound(address, PORTS[each.kind], ("listen",))
    )
    if config.gate.kernel.mode is KernelMode.NFTABLES and not taken:
        remedy = f'add [listen.gate] with kind = "mx" and address = ["0.0.0.0:{port}", "[::]:{port}"]'
        raise BadSetting(("gate", "kernel", "port"), f"no listener has port {port}", remedy)


def located(wrong: BadSetting, text: str, path: Path) -> ConfigError:
    """Turn a mistake into words with file and line."""
    return ConfigError(path, line_of(text, wrong.path), str(wrong))


def bound(text: str, port: int, path: tuple[str | int, ...]) -> tuple[tuple[str, int], ...]:
    """Return what a listener's address means: an address and port, of an interface several; raises BadSetting."""
    name, _, given = text.partition(":")
    if _INTERFACE.fullmatch(name) is None or text.count(":") > 1:
        return (split_address(text, port, path),)
    known = interface.addresses()
    if name not in known:
        remedy = f"write 192.0.2.1, 192.0.2.1:25, [2001:db8::1]:25, or one of {', '.join(known)}"
        raise BadSetting(path, f"{name!r} is not an address, nor an interface that has one", remedy)
    return tuple(split_address(f"[{ip}]:{given}", port, path) for ip in known[name])


def server_of(text: str, port: int) -> tuple[str, int]:
    """Read the name or address of a server, with or without a port; raises ValueError."""
    found = _SERVER.fullmatch(text)
    if found is None or not 0 < int(found[3] or port) < 65_536:
        raise ValueError(f"{text!r} is no server: write time.example.org, 192.0.2.1:123 or [2001:db8::1]:123")
    return (found[1] or found[2]).lower(), int(found[3] or port)


def split_address(text: str, port: int, path: tuple[str | int, ...]) -> tuple[str, int]:
    """Read `host`, `host:port` or `[v6]:port`; raises BadSetting."""
    host, given = text, ""
    if text.startswith("["):
        host, _, given = text[1:].partition("]")
        given = given.removeprefix(":")
    elif text.count(":") == 1:
        host, _, given = text.partition(":")
    try:
        ip_address(host)
    except ValueError:
        raise BadSetting(
            path, f"{text!r} is not an address", "write 192.0.2.1, 192.0.2.1:25 or [2001:db8::1]:25"
        ) from None
    if (given and re.fullmatch(r"[0-9]{1,5}", given) is None) or int(given or 0) > 65_535:
        raise BadSetting(path, f"{given!r} is not a port")
    return host, int(given) if given else port


def parse_network(text: str, path: tuple[str | int, ...]) -> Prefix:
    """Read `192.0.2.10`, `192.0.2.0/24` or `2001:db8::/64`; raises BadSetting."""
    try:
        return parse_prefix(text)
    except ValueError as wrong:
        raise BadSetting(path, str(wrong), "write 192.0.2.10/32 or 2001:db8::/64") from wrong


def line_of(text: str, path: tuple[str | int, ...]) -> int:
    """Return the line on which the setting at `path` stands, or that of the table around it; 0 for neither."""
    best, depth = 0, 0
    counts: dict[tuple[str | int, ...], int] = {}
    here: tuple[str | int, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if table := _TABLE.fullmatch(line):
            here = tuple(_names(table[2]))
            if table[1] == "[[":
                counts[here] = counts.get(here, -1) + 1
                here = (*here, counts[here])
            found = here
        elif key := _KEY.match(line):
            found = (*here, *_names(key[1]))
        else:
            continue
        common = _common(found, path)
        if common == len(found) and common > depth:
            best, depth = number, common
    return best


def _names(dotted: str) -> list[str]:
    return [name.strip().strip("\"'") for name in dotted.split(".")]


def _common(one: tuple[str | int, ...], other: tuple[str | int, ...]) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count
