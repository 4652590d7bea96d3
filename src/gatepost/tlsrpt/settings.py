"""The settings of TLS reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """How TLS to other domains' mail servers went: `[tls.reports]`."""

    collect: bool = True
    """Count it by domain and day, for `gatepost tls report`."""

    keep_days: int = 14
    """How many days of it are kept."""

    def __post_init__(self) -> None:
        if not 1 <= self.keep_days <= 366:
            raise ValueError("keep_days must be between 1 and 366")
