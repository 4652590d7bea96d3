"""The settings of the queue: `[queue]`."""

from dataclasses import dataclass
from enum import Enum

from gatepost.base.units import Seconds


class Bounces(Enum):
    """Who is told that a mail could not be delivered."""

    ALL = "all"
    LOCAL = "local"


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

    lease: Seconds = Seconds(300)
    """After a crash, how long until another worker takes over what was under way."""

    def __post_init__(self) -> None:
        if self.lease < 10:
            raise ValueError("lease must be at least 10s, or a slow worker loses mail it is sending to another")
        if self.lifetime < 3600:
            raise ValueError("lifetime must be at least 1h")
