"""What a feed knows of a session: the link with one neighbour, and the news that come from it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from gatepost.codec.bgp.types import Path
from gatepost.feeds.bgp.plan import Plan
from gatepost.feeds.bgp.settings import NeighborSettings
from gatepost.feeds.bgp.show import Messages


@dataclass(frozen=True, slots=True)
class Up:
    """A session that was established.

    `restart_s`, `restarts`: for how long and of which families (4, 6) routes are to be kept when it is lost
    gracefully (RFC 4724).
    """

    remote_id: str
    holdtime: int
    capabilities: Sequence[str] = ()
    restart_s: int = 0
    restarts: Collection[int] = ()
    local: str = ""
    remote: str = ""


class Loss(Enum):
    """How a session ended."""

    WANTED = "wanted"
    """Somebody meant it: an operator, a limit, the neighbour's own word."""
    BROKEN = "broken"
    """The connection broke, or the neighbour fell silent."""
    GRACEFUL = "graceful"
    """So that the neighbour's routes are to be kept (RFC 4724 §4.2, RFC 8538 §4)."""


class Sink(Protocol):
    """Who is told of a session, on the loop; versions are 4 and 6."""

    def established(self, up: Up) -> None: ...
    def updated(
        self, version: int, withdrawn: Sequence[bytes], announced: Sequence[bytes], path: Path | None
    ) -> None: ...
    def end_of_rib(self, version: int) -> None: ...
    def ended(self, why: str, loss: Loss) -> None: ...


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
