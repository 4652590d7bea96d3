"""The settings of a backup MX: `[backup]`."""

from dataclasses import dataclass
from enum import Enum

from gatepost.base.units import Seconds
from gatepost.queue.settings import Unproven


class Recipients(Enum):
    """How a backup knows whom the primary has mail for."""

    LIST = "list"
    CALL_AHEAD = "call-ahead"
    ACCEPT_ALL = "accept-all"


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """A server that holds mail for another, with `role = "backup-mx"`: `[backup]`. `gatepost join` writes it."""

    primary: str = ""
    """The primary's web listener, `https://mx1.example.org`; empty: no list is pulled."""

    name: str = ""
    """The name by which the primary knows this backup; empty is its hostname."""

    key_file: str = ""
    """The key that both have: signs the list, and stands between its digests and the addresses."""

    certificate: str = ""
    """A PEM file with the primary's own certificate, where that is self-signed; empty: the system's authorities."""

    recipients: Recipients = Recipients.LIST
    """Who is taken at RCPT. `list`: who is in the primary's list; whom it does not tell of, the primary is asked
    about. `call-ahead`: the primary is asked about each. `accept-all`: everybody. Where neither list nor primary
    can tell, the mail is taken."""

    refresh: Seconds = Seconds(300)
    """How often the list is asked for."""

    retry: Seconds = Seconds(30)
    """How often while the primary does not answer; when it does again, all that waits for it is sent at once."""

    shrink: float = 0.5
    """A list that has lost more than this share of the addresses is not believed until
    `gatepost recipients pull --force`."""

    stale: Seconds = Seconds(86_400)
    """When the list has not been confirmed for so long, the primary is asked before it refuses anybody; the list
    goes on to be used where that gives no answer."""

    known_for: Seconds = Seconds(7 * 86_400)
    """How long an address that the primary accepted is not asked about again."""

    unknown_for: Seconds = Seconds(3 * 3600)
    """How long an address that the primary refused is not asked about again."""

    call_time: Seconds = Seconds(10)
    """How long a client waits for what the primary says of a recipient."""

    bounces: Unproven = Unproven.QUARANTINE
    """What becomes of a mail that the primary refuses, or that gets too old, and whose sender neither SPF nor DKIM
    proves, who may thus not be told: `quarantine` holds it in the queue for the operator, `postmaster` tells
    accounts.postmaster, `discard` writes a line into the log."""

    def __post_init__(self) -> None:
        if self.primary and not self.primary.startswith("https://"):
            raise ValueError("primary is an address of the web that begins with https://")
        if self.primary and not self.key_file:
            raise ValueError("primary needs key_file (gatepost join makes both)")
        if not 0 < self.shrink <= 1:
            raise ValueError("shrink is a share: more than 0, at most 1")
        if min(self.refresh, self.retry, self.call_time) <= 0:
            raise ValueError("refresh, retry and call_time must be more than 0")
