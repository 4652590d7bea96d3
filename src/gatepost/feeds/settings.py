"""The feeds' settings: `[feeds.NAME]`, one field a feed."""

from dataclasses import dataclass, field

from gatepost.feeds.bgp.settings import BgpSettings


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Who else tells the gate whom to trust: `[feeds]`."""

    bgp: BgpSettings = field(default_factory=BgpSettings)
    """Route servers that announce addresses by BGP."""
