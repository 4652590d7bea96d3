"""The feeds' settings: `[feeds.NAME]`, one field a feed."""

from dataclasses import dataclass, field

from gatepost.feeds.bgp.settings import BgpSettings
from gatepost.feeds.lists.settings import ListsSettings
from gatepost.feeds.sync.settings import SyncSettings


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Who else tells the gate whom to trust: `[feeds]`."""

    bgp: BgpSettings = field(default_factory=BgpSettings)
    """Route servers that announce addresses by BGP."""

    lists: ListsSettings = field(default_factory=ListsSettings)
    """Lists of addresses from files, the web and programs."""

    sync: SyncSettings = field(default_factory=SyncSettings)
    """Other mail servers of ours that share their greylist."""
