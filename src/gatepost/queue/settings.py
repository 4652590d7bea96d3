"""The settings of the queue: `[queue]`."""

from dataclasses import dataclass
from enum import Enum

from gatepost.base.clock import seconds
from gatepost.base.units import Seconds
from gatepost.policy.action import Route


class Bounces(Enum):
    """Who is told that a mail could not be delivered."""

    ALL = "all"
    LOCAL = "local"


class Unproven(Enum):
    """What becomes of a mail that cannot be delivered, and whose sender may be forged."""

    DISCARD = "discard"
    QUARANTINE = "quarantine"
    POSTMASTER = "postmaster"


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How long mail is tried, and who hears about it: `[queue]`."""

    lifetime: Seconds = Seconds(4 * 86_400)
    """How long a mail is tried before it is returned; 14d suits a backup MX."""

    bounce_lifetime: Seconds = Seconds(7 * 86_400)
    """How long a bounce is tried."""

    warn_after: Seconds = Seconds(4 * 3600)
    """Tell the sender once that a mail is late, when it is this old; 0 never does (right for a backup MX)."""

    bounces: Bounces = Bounces.ALL
    """`all`: tell every sender of failures; `local`: only senders who have a mailbox here, so that forwarded spam
    never becomes backscatter."""

    double_bounces: bool = True
    """Put into the postmaster's mailbox what could not be told to a sender: a report that failed itself, or one to
    an address of this server that nobody has. What others sent from `<>` is never answered."""

    lease: Seconds = Seconds(300)
    """After a crash, how long until another worker takes over what was under way."""

    compression: bool = True
    """Whether the texts of mail are kept compressed (zstd), in the queue and in mailboxes; `false` keeps new ones
    as long as they came. What is stored already is read either way."""

    encryption_key_file: str = ""
    """Keep the text and the envelope of mail encrypted (AES-256-GCM): a file of mode 0600, the server's user's,
    with a key of exactly 32 characters on each line; the first encrypts, all decrypt. `gatepost queue key new`
    makes one. It is in no backup: without it the mail cannot be read. docs/queue.md says what stays in clear."""

    def __post_init__(self) -> None:
        if self.lease < 10:
            raise ValueError("lease must be at least 10s, or a slow worker loses mail it is sending to another")
        if self.lifetime < 3600:
            raise ValueError("lifetime must be at least 1h")

    def lifetime_of(self, *, bounce: bool, route: Route) -> int:
        """Return how long a mail is tried that goes this way, in microseconds."""
        return seconds(self.bounce_lifetime if bounce else route.lifetime or self.lifetime)
