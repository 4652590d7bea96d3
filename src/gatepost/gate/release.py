"""Bans end by themselves: entries of the overload tables go when their time is over (`pfctl -T expire`)."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from gatepost.base.clock import Clock, Instant, seconds
from gatepost.base.ports import Log
from gatepost.db.unit import Database, NotCommitted
from gatepost.gate.verbs import GateRefusal, expire_entries, show_table

RELEASE_S: Final = 600.0  # between two looks for those whose time is over


async def release(database: Database, tables: Iterable[str], ban_time: float, now: Instant) -> int:
    """Delete the entries of tables that are older than `ban_time` seconds: `pfctl -T expire`; return how many."""
    released = 0
    for name in dict.fromkeys(tables):
        ends = now - seconds(ban_time)
        known = await show_table(database, name)
        if any(0 < entry.since < ends for entry in known):  # after a change all workers read the table again
            released += (await expire_entries(database, name, ban_time, now)).done
    return released


async def keep_releasing(
    database: Database,
    tables: Callable[[], Iterable[str]],
    ban_time: Callable[[], float],
    *,
    clock: Clock,
    log: Log,
) -> None:
    """Do `release` now and every RELEASE_S, for ever; both callables give what is set at that moment."""
    while True:
        try:
            if ban_time() > 0:
                released = await release(database, tables(), ban_time(), clock.now())
                if released:
                    log.info("bans_released", count=released)
        except (NotCommitted, GateRefusal) as error:
            log.warning("bans_not_released", error=str(error))
        await asyncio.sleep(RELEASE_S)
