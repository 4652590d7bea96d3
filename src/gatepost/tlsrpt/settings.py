"""The settings of TLS reports."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """How TLS to other domains' mail servers went: `[tls.reports]`."""

    collect: bool = True
    """Count it by domain and day, for `gatepost tls report`."""

    keep_days: int = 14
    """How many days of it are kept."""

    send: bool = False
    """Send it once a day to the domains that ask for it (RFC 8460). Mails are from `sender`."""

    send_days: int = 2
    """How many days a report is tried that somebody does not take."""

    sender: str = ""
    """The address that reports come from; empty is the postmaster's."""

    contact: str = ""
    """The address that a report names for questions; empty is `sender`."""

    organization: str = ""
    """Whom a report names as its author; empty is the server's name."""

    def __post_init__(self) -> None:
        for address in filter(None, (self.sender, self.contact)):
            if not re.fullmatch(r"[!-~]+@[A-Za-z0-9.-]+", address):
                raise ValueError(f"{address!r} is not an address")
        if not 1 <= self.send_days < self.keep_days:
            raise ValueError("send_days must be at least 1 and less than keep_days")
        if not 2 <= self.keep_days <= 366:
            raise ValueError("keep_days must be between 2 and 366")
