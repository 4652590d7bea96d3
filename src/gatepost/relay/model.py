"""What is asked of the relay, and what it answers for each recipient."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from gatepost.base.address import ReversePath
from gatepost.base.envelope import NO_WISHES, Recipient, Tls, Wishes
from gatepost.base.ids import MailId
from gatepost.base.reply import Reply
from gatepost.codec.smtp.xforward import Forwarded
from gatepost.policy.action import Route


class Fate(Enum):
    """What became of a recipient."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Consignment:
    """One mail for recipients who share a route and a destination. `load` reads the body, CRLF line ends only."""

    mail: MailId
    sender: ReversePath
    recipients: tuple[Recipient, ...]
    route: Route
    load: Callable[[], Awaitable[bytes]]
    size: int = 0
    """Octets of the body, 0 when not known before it is loaded."""
    eight_bit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    client: Forwarded | None = None
    """Who gave us the mail, for next hops that are told."""
    wishes: Wishes = NO_WISHES


@dataclass(frozen=True, slots=True)
class Result:
    """One recipient's fate. `reply` is the next hop's, or ours when it said nothing; `host`: its name, `ip`: where.

    `dsn_passed`: the next hop took over the duty to report success (RFC 3461 §5.2.2). `in_doubt`: the mail was sent
    whole and the answer never came (RFC 1047): a later attempt may make a duplicate. `host_down`: nothing is wrong
    with this mail; the destination could not be spoken to.
    """

    fate: Fate
    reply: Reply
    host: str = ""
    ip: str = ""
    tls: Tls | None = None
    dsn_passed: bool = False
    in_doubt: bool = False
    host_down: bool = False
    said: bool = True
    """The reply was the next hop's own."""
    changed: str = ""
    """What was done to the mail for this next hop, in words; empty for nothing."""
    why: str = ""
    """What was asked of the hop's TLS, and why: a sentence for the operator."""
    by_passed: bool = False
    """The next hop was told by when the mail is to be delivered (RFC 2852)."""
