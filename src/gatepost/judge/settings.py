"""The judge's settings."""

from dataclasses import dataclass
from enum import Enum

from gatepost.base.units import Octets, Seconds


class Dmarc(Enum):
    """What becomes of DMARC's result."""

    OFF = "off"
    REPORT = "report"
    HONOUR = "honour"


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Whether mail is genuine and wanted: `[judge]`."""

    verify: bool = True
    """Check SPF, DKIM and ARC of mail from strangers and write Authentication-Results."""

    dmarc: Dmarc = Dmarc.HONOUR
    """DMARC (RFC 9989) for mail from strangers: `honour` what the author's domain asks for, refuse before the 250
    or file into Junk; only `report` the result in Authentication-Results; or `off`."""

    sealers: tuple[str, ...] = ()
    """Domains whose ARC seals are believed: a mail that fails DMARC is taken if one of them saw it pass and nobody
    else handled it since. Forwarders and list hosts that you know belong here."""

    lists: tuple[str, ...] = ()
    """List-Ids of mailing lists that are believed where a signature of the list's own domain holds."""

    dns_time: Seconds = Seconds(20)
    """How long all DNS questions of one mail may take together; then the result is temperror."""

    filter: bool = False
    """Look at the content too, and mark spam with X-Spam fields."""

    filter_max_size: Octets = Octets(256 * 1024)
    """Larger mails are not looked at (spampd's --maxsize=256)."""

    junk_score: float = 5.0
    """From this score on a mail is marked as spam and filed into Junk."""

    refuse_score: float = 15.0
    """From this score on a mail is refused while its sender is still connected."""

    def __post_init__(self) -> None:
        if self.refuse_score < self.junk_score:
            raise ValueError("refuse_score must not be below junk_score: what is refused cannot be filed")
