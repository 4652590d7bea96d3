"""What a feed knows of a session: the link with one neighbour, and the news that come from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gatepost.feeds.bgp.filter import Path
from gatepost.feeds.bgp.plan import Plan
from gatepost.feeds.bgp.settings import NeighborSettings
from gatepost.feeds.bgp.show import Messages


@dataclass(frozen=True, slots=True)
class Up:
    """A session that was established; `restart_s`: the neighbour asked for graceful restart, in so many seconds."""

    remote_id: str
    holdtime: int
    capabilities: Sequence[str] = ()
    restart_s: int | None = None
    local: str = ""
    remote: str = ""


class Sink(Protocol):
    """Who is told of a session, on the loop; versions are 4 and 6."""

    def established(self, up: Up) -> None: ...
    def updated(
        self, version: int, withdrawn: Sequence[bytes], announced: Sequence[bytes], path: Path | None
    ) -> None: ...
    def end_of_rib(self, version: int) -> None: ...
    def ended(self, why: str, *, broken: bool) -> None: ...


class Link(Protocol):
    """The link with one neighbour: it calls, is called, and tries again by itself."""

    @property
    def state(self) -> str: ...
    @property
    def last_read(self) -> float | None: ...
    @property
    def sent(self) -> Messages: ...
    @property
    def received(self) -> Messages: ...
    async def run(self, sink: Sink) -> None: ...
    def up(self) -> None: ...
    def down(self) -> None: ...
    def clear(self) -> None: ...
    def refresh(self) -> bool: ...
    def overflow(self, why: str) -> None: ...


Linked = Callable[[NeighborSettings, Plan], Link]
"""Makes the link with a neighbour."""
