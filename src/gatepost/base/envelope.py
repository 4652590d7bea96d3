"""Who speaks, and what the envelope says: the facts of one transaction."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from gatepost.base.address import Address, ReversePath
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId


@dataclass(frozen=True, slots=True)
class Tls:
    """A finished handshake, as the Received header and the diary tell it."""

    version: str
    cipher: str
    bits: int
    server_name: str = ""
    client_name: str = ""
    """The common name in the client's certificate, where one was asked for and holds."""


@dataclass(frozen=True, slots=True)
class Client:
    """The other end of an SMTP session. `ip` is normalised text (v4-mapped IPv6 becomes IPv4)."""

    ip: str
    port: int
    local_ip: str
    local_port: int
    listener: str
    tag: str = ""
    helo: str = ""
    esmtp: bool = False
    rdns: str = ""
    """The name of a PTR record that points back to `ip` (FCrDNS); empty when there is none."""
    tls: Tls | None = None
    user: str = ""
    """The account that authenticated, as `local@domain`; empty for none."""
    via: str = ""
    """The address of the filter or proxy that spoke for it (XFORWARD, XCLIENT); empty: it spoke itself."""
    local_user: str = ""
    """The user of this machine whose program it is, as the kernel says; empty for who comes over the network."""
    ident: str = ""
    """What the server before calls the mail (XFORWARD's IDENT)."""

    @property
    def loopback(self) -> bool:
        """Tell whether it comes from this machine over loopback."""
        return self.ip.startswith("127.") or self.ip == "::1"


class Notify(Enum):
    """When the sender wants a DSN (RFC 3461 §4.1)."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward-path with its DSN parameters; `notify` None means none was given."""

    address: Address
    notify: frozenset[Notify] | None = None
    orcpt: str = ""


class Privacy(Enum):
    """What the sender says of TLS on the way (RFC 8689)."""

    USUAL = "usual"
    """It leaves that to us and to the policies of the recipients' domains."""
    REQUIRED = "required"
    """REQUIRETLS: TLS to a server that is surely the right one and asks the same of the next, or no delivery."""
    WAIVED = "waived"
    """`TLS-Required: No`: it should arrive, whatever a domain's policy says."""


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """By when a mail is to be delivered (RFC 2852), and what follows when it is not."""

    at: Instant
    returns: bool
    """It is returned then (R); else it is tried on, and its sender is told (N)."""
    trace: bool = False
    """The sender wants to hear of each server that it passes (T)."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How the sender wants a mail to be handled on its way."""

    privacy: Privacy = Privacy.USUAL
    priority: int = 0
    """-9 to 9, what is higher goes first (RFC 6710)."""
    by: DeliverBy | None = None
    not_before: Instant = Instant(0)
    """When it is released (RFC 4865); 0: at once."""


NO_WISHES: Final = Wishes()


@dataclass(frozen=True, slots=True)
class Envelope:
    """One mail's envelope. `declared_size` is octets by SIZE= or 0."""

    id: MailId
    received_at: Instant
    sender: ReversePath
    recipients: tuple[Recipient, ...]
    eight_bit: bool = False
    smtputf8: bool = False
    declared_size: int = 0
    ret: str = ""
    """`FULL`, `HDRS` or empty (RFC 3461 §4.3)."""
    envid: str = ""
    wishes: Wishes = NO_WISHES
