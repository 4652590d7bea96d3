"""The judge's settings."""

from dataclasses import dataclass

from gatepost.base.units import Octets, Seconds


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Whether mail is genuine and wanted: `[judge]`."""

    verify: bool = True
    """Check SPF and DKIM of mail from strangers and write Authentication-Results."""

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
