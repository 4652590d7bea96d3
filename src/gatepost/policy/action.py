"""What a rule does with a recipient, and the deliveries that come out of it."""

from dataclasses import dataclass
from enum import Enum

from gatepost.accounts.model import NO_QUOTA, AccountId, Quota
from gatepost.base.address import Address, fold_domain


class RouteKind(Enum):
    """How the next hop is found."""

    MX = "mx"
    HOST = "host"
    PROGRAM = "program"
    """No hop: a program of this machine reads the mail."""
    MBOX = "mbox"
    MAILDIR = "maildir"
    MAILBOX = "mailbox"
    """A mailbox here, for mail that has to wait: `host` is its name, `auth` the number of its account."""


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
    table, `helo` and `source` (addresses of ours, parted by commas) replace the defaults. `lmtp` speaks LMTP (RFC
    2033).

    For PROGRAM, MBOX and MAILDIR `host` is the command's words (as `shlex.join` writes them) or the path, `auth` is
    the user that it runs as and belongs to: a name, or `name=uid:gid:/home` of one whom only a table knows.
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
    xforward: bool = False
    """Tell the next hop, where it offers XFORWARD, who gave us the mail: for filters that hand it back."""
    srs: bool = False
    """Show a rewritten sender: one of our addresses sends on what a stranger wrote."""
    lifetime: int = 0
    """Seconds for which mail is tried; 0 leaves that to `queue.lifetime`."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the addresses to send from; none: whatever the system chooses."""
        return tuple(self.source.split(",")) if self.source else ()

    @property
    def on_disk(self) -> bool:
        """Tell whether it ends in a program, a file or a mailbox of this machine."""
        return self.kind in (RouteKind.PROGRAM, RouteKind.MBOX, RouteKind.MAILDIR, RouteKind.MAILBOX)

    @property
    def quick(self) -> bool:
        """Tell whether it stays on this machine or near it, and is tried again sooner."""
        return self.lmtp or self.on_disk

    def destination(self, recipient: Address) -> str:
        """Return where a mail for `recipient` goes: what groups recipients, and what is spared when it is down."""
        if self.on_disk:
            return f"{self.kind.value}://{self.auth.partition('=')[0]}"
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
    """Hand it to the queue for another machine, or an LMTP server, a program or a file here."""

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

    `virtual` and `alias` name tables (at most one of them); without one the accounts decide. `end` hands the mail
    to an LMTP server or a program instead of a mailbox of ours: with the user's name alone or, with `rcpt_to`, the
    address. `forwards` names what knows the users' .forward; empty: nobody asks for one.
    """

    mailbox: str = "INBOX"
    virtual: str = ""
    alias: str = ""
    end: Route | None = None
    rcpt_to: bool = True
    forwards: str = ""


Action = Reject | Relay | Deliver
