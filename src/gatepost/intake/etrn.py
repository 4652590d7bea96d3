"""ETRN: start the queue for a node whose mail waits here, when its server says that it is back (RFC 1985).

Only networks that `[intake] etrn` names may ask. What is asked for again within a minute is put off: to try a
hundred thousand mails is work.
"""

from typing import Final

from gatepost.base.clock import Instant
from gatepost.base.reply import Refusal, Reply
from gatepost.codec.smtp.etrn import Etrn, nothing, started, unable
from gatepost.db.unit import Database, NotCommitted
from gatepost.queue.verbs import destinations_of, retry_destination

EVERY: Final = 60.0  # s between two runs for one node
NODES: Final = 1_000
"""Nodes that are remembered in a process; with that many in a minute, more are put off."""


class Turns:
    """Which nodes were asked for of late."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}

    def take(self, node: str, steady: float) -> bool:
        """Tell whether it is this node's turn again."""
        if len(self._asked) >= NODES:
            self._asked = {name: at for name, at in self._asked.items() if steady < at + EVERY}
        if steady < self._asked.get(node, float("-inf")) + EVERY or len(self._asked) >= NODES:
            return False
        self._asked[node] = steady
        return True


async def etrn(database: Database, turns: Turns, asked: Etrn, now: Instant, steady: float) -> Reply:
    """Make due what waits for a node; raises Refusal (458) where that cannot be done now."""
    if not turns.take(asked.node, steady):
        raise Refusal(unable(asked.node), detail="asked again within a minute")
    names = [asked.node]
    try:
        if asked.subdomains:
            names += await destinations_of(database, asked.node)
        found = [await retry_destination(database, name, now) for name in names]
    except NotCommitted as problem:
        raise Refusal(unable(asked.node), detail=repr(problem)) from problem
    return started(asked.node) if any(found) else nothing(asked.node)
