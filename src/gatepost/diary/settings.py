"""The diary's settings."""

from dataclasses import dataclass

from gatepost.base.units import Seconds


@dataclass(frozen=True, slots=True)
class DiarySettings:
    """How long the stories of mails are kept, which are personal data: `[diary]`."""

    keep_accepted: Seconds = Seconds(30 * 86_400)
    """How long the story of an accepted mail is kept."""

    keep_refused: Seconds = Seconds(7 * 86_400)
    """How long refusals are kept, as counts and as stories."""

    stories_max: int = 5_000_000
    """Stories of accepted mails; beyond it the oldest go."""

    refused_stories_max: int = 1_000_000
    """Stories of refused mails; beyond it the oldest go."""

    refused_per_second: int = 50
    """Refusals told in full; the rest is counted."""

    refused_per_source: int = 5
    """Refusals of one source net told in full each minute."""

    def __post_init__(self) -> None:
        if min(self.stories_max, self.refused_stories_max) < 1000:
            raise ValueError("stories_max and refused_stories_max must be at least 1000")
