"""What a rule does with a recipient, and the deliveries that come out of it."""

from dataclasses import dataclass
from enum import Enum

from gatepost.accounts.model import NO_QUOTA, AccountId, Quota
from gatepost.base.address import Address, fold_domain


class RouteKind(Enum):
    """How the next hop is found."""

    MX = "mx"
    HOST = "host"


class RelayTls(Enum):
    """How much TLS a next hop must have."""

    MAY = "may"
    """STARTTLS where it is offered and works, else plain (RFC 7435)."""
    REQUIRE = "require"
    """TLS or no delivery; any certificate."""
    VERIFY = "verify"
    """TLS with a certificate that holds for the next hop's name, or no delivery."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Route:
    """How a mail leaves us. `host` (a name, an address, or the path of a Unix socket) counts for HOST only.

    `port` 0 is the usual one: 25, for LMTP 24, for `implicit_tls` 465. `auth` names a line of the credentials
    table, `helo` and `source` (one of our addresses) replace the defaults. `lmtp` speaks LMTP (RFC 2033).
    """

    kind: RouteKind = RouteKind.MX
    host: str = ""
    port: int = 0
    tls: RelayTls = RelayTls.MAY
    implicit_tls: bool = False
    auth: str = ""
    helo: str = ""
    source: str = ""
    lmtp: bool = False

    def destination(self, recipient: Address) -> str:
        """Return where a mail for `recipient` goes: what groups recipients, and what is spared when it is down."""
        if self.kind is RouteKind.MX:
            return fold_domain(recipient.domain)
        where = f"{self.host}:{self.port}" if self.port else self.host
        return f"lmtp://{where}" if self.lmtp else f"smtp://{where}"


@dataclass(frozen=True, slots=True)
class ToMailbox:
    """Put it into an account's mailbox. `recipient` is the address that was written, `detail` what followed `+`."""

    account: AccountId
    mailbox_name: str
    recipient: Address
    detail: str = ""
    quota: Quota = NO_QUOTA


@dataclass(frozen=True, slots=True)
class ToRelay:
    """Hand it to the queue for another machine (or an LMTP server here)."""

    recipient: Address
    route: Route


Delivery = ToMailbox | ToRelay


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse the recipient."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Send it on, the address unchanged."""

    route: Route


@dataclass(frozen=True, slots=True)
class Deliver:
    """Expand the recipient and deliver what comes out.

    `virtual` and `alias` name tables (at most one of them); without one the accounts decide. `lmtp` hands the mail
    to an LMTP server instead of a mailbox of ours, with the user's name alone or, with `rcpt_to`, the address.
    """

    mailbox: str = "INBOX"
    virtual: str = ""
    alias: str = ""
    lmtp: Route | None = None
    rcpt_to: bool = True


Action = Reject | Relay | Deliver
