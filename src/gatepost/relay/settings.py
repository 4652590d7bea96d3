"""The settings of sending: `[relay]`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Final

from gatepost.base.units import Octets, Seconds

_NAME: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


class EightBit(Enum):
    """What becomes of 8-bit mail where the next hop does not offer 8BITMIME."""

    CONVERT = "convert"
    BOUNCE = "bounce"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How mail goes out: `[relay]`."""

    helo: str = ""
    """The name to greet other servers with; empty is the server's own."""

    helos: Mapping[str, str] = field(default_factory=dict)
    """The name to greet with from each of our addresses: address = name. It should be the name that the DNS gives
    the address. What is not here greets with `helo`; an action's own name goes before."""

    source: tuple[str, ...] = ()
    """Addresses of this machine to send from; none leaves it to the system. Of several of the next hop's family it
    is always the same for a destination. An action's own go before."""

    port: int = 25
    """The port of other domains' mail servers. Only a trial on one machine needs another."""

    allow_loopback: bool = False
    """Let an MX lead to this machine's loopback addresses. Only for a trial: it would loop."""

    allow_plain: bool = True
    """Deliver without TLS where a next hop offers none (opportunistic TLS, RFC 7435)."""

    dane: bool = True
    """Ask for TLSA records, and hold servers that have them to them (DANE, RFC 7672). It needs a resolver that
    validates DNSSEC, on this machine or with `resolver.trusted`; without one nothing is found and nothing asked."""

    mta_sts: bool = True
    """Fetch the MTA-STS policies of other domains (RFC 8461), and hold their servers to them: under a policy that
    says `enforce` mail goes to the servers it names only, by TLS with a certificate that holds. DANE goes first."""

    credentials: str = ""
    """A file with `label user:password` lines, for actions with `auth`."""

    eight_bit: EightBit = EightBit.CONVERT
    """What becomes of 8-bit mail where the next hop offers no 8BITMIME (RFC 6152 §3): `convert` it to 7 bits (a
    DKIM signature then fails; what must not be changed is returned), `bounce` it, or `send` it as it is."""

    chunking: bool = False
    """Send with BDAT (RFC 3030) in place of DATA where the next hop offers it."""

    sessions: int = 200
    """Deliveries at the same time, all destinations together."""

    sessions_first: int = 2
    """Deliveries to one destination at the same time at first; success lets them grow."""

    sessions_most: int = 10
    """Deliveries to one destination at the same time at most."""

    mails: int = 100
    """Mails over one connection before a new one is made."""

    idle: Seconds = Seconds(5)
    """How long a connection is kept for the next mail."""

    hosts: int = 5
    """Mail servers of one domain tried in one run."""

    recipients: int = 100
    """Recipients in one transaction (RFC 5321 §4.5.3.1.8 promises 100)."""

    in_memory: Octets = Octets(256 * 1024 * 1024)
    """Bodies under way at the same time, all together."""

    connect_time: Seconds = Seconds(30)
    """Patience for a connection."""

    greeting_time: Seconds = Seconds(300)
    """Patience for the greeting (RFC 5321 §4.5.3.2.1)."""

    command_time: Seconds = Seconds(300)
    """Patience for the answers to EHLO, MAIL and RCPT (§4.5.3.2.2-3)."""

    tls_time: Seconds = Seconds(300)
    """Patience for a TLS handshake."""

    data_time: Seconds = Seconds(120)
    """Patience for the answer to DATA (§4.5.3.2.4)."""

    block_time: Seconds = Seconds(180)
    """Patience for each block of the mail to be taken (§4.5.3.2.5)."""

    end_time: Seconds = Seconds(600)
    """Patience for the answer to the end of the mail (§4.5.3.2.6)."""

    program_time: Seconds = Seconds(60)
    """How long a program of this machine may take for a mail (policy.tables.NAME.programs); then it is ended."""

    def __post_init__(self) -> None:
        for name in filter(None, (self.helo, *self.helos.values())):
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is no name to greet with")
        for source in (*self.source, *self.helos):
            ip_address(source)  # ValueError says what it is not
        if not 0 < self.port < 65_536:
            raise ValueError(f"there is no port {self.port}")
        if not 1 <= self.sessions_first <= self.sessions_most:
            raise ValueError("sessions_first must be at least 1 and not more than sessions_most")
        if min(self.sessions, self.mails, self.hosts, self.recipients) < 1:
            raise ValueError("sessions, mails, hosts and recipients must be at least 1")
