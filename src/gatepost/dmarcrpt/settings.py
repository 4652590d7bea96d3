"""The settings of DMARC's aggregate reports."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DmarcReportSettings:
    """What is told to domains of the mail that came in their name: `[judge.reports]`."""

    collect: bool = True
    """Count it by domain and day, for `gatepost dmarc report`, where the domain asks for reports."""

    keep_days: int = 5
    """How many days of it are kept."""

    send: bool = False
    """Send it once a day to the domains that ask for it (RFC 9990). Nothing is told of single mails (ruf), ever."""

    send_days: int = 2
    """How many days a report is tried that could not be sent."""

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
        if not 1 <= self.send_days < self.keep_days <= 366:
            raise ValueError("send_days must be at least 1, and less than keep_days (at most 366)")
