"""The queue by destination: how much waits for each, which rest, and the pauses that an operator has set.

A pause is a row, so it outlives the server; workers hear of it by a notice and read it when they start. Deliveries
that have begun end as ever. Mail of a paused destination that falls due is parked until `resume`; its lifetime goes
on meanwhile.
"""

from dataclasses import dataclass
from typing import Final

from gatepost.base.clock import Instant
from gatepost.base.ids import EPOCH_MS
from gatepost.db.unit import Database, Notice, Step, Unit
from gatepost.queue.sql import (
    DESTINATIONS,
    EVERYTHING,
    LAST_ERROR,
    NEVER,
    PARKED,
    PAUSE,
    PAUSES,
    RESTS,
    RESUME,
    UNPARK,
)
from gatepost.queue.submit import NOTICE

PAUSED: Final = Notice("queue_pause")
"""Tells workers that there are other pauses."""


@dataclass(frozen=True, slots=True)
class Pause:
    """What is not tried until `resume`. `destination` EVERYTHING is all outbound mail."""

    destination: str
    since: Instant
    why: str


@dataclass(frozen=True, slots=True)
class Destination:
    """One destination for which mail waits. A time is None where there is none."""

    name: str
    waiting: int
    held: int
    oldest: Instant
    """When its oldest mail came."""
    next_due: Instant | None
    rests_until: Instant | None
    """It could not be spoken to, and is left alone until then."""
    paused: bool
    last_error: str


async def destinations(database: Database, now: Instant, *, most: int = 100) -> tuple[Destination, ...]:
    """Return the destinations for which most waits."""
    counted = await database.read_long(DESTINATIONS, {"never": NEVER, "parked": PARKED, "most": most})
    rests = {str(lane): (int(str(until)), str(answer)) for lane, until, answer in await _rests(database, now)}
    paused = {each.destination for each in await pauses(database)}
    found = []
    for lane, recipients, held, first, due in counted:
        name = str(lane)
        until, answer = rests.get(name, (0, ""))
        found.append(
            Destination(
                name,
                int(str(recipients)) - int(str(held)),
                int(str(held)),
                _minted(int(str(first))),
                None if due is None else Instant(int(str(due))),
                Instant(until) if until else None,
                bool(paused & {name, EVERYTHING}),
                answer or await _last_error(database, name),
            )
        )
    return tuple(found)


async def pauses(database: Database) -> tuple[Pause, ...]:
    """Return what is paused."""
    rows = await database.read(PAUSES, {})
    return tuple(Pause(str(lane), Instant(int(str(since))), str(why)) for lane, since, why in rows)


async def pause(database: Database, destination: str, now: Instant, why: str = "") -> None:
    """Try nothing for a destination (or EVERYTHING) any more, until `resume`."""
    step = Step(PAUSE, {"lane": destination, "now": now, "why": why})
    await database.commit(Unit((step,), (PAUSED,)))


async def resume(database: Database, destination: str, now: Instant) -> bool:
    """End a pause; what fell due in it is due now. Tell whether there was one."""
    steps = (
        Step(RESUME, {"lane": destination}),
        Step(UNPARK, {"lane": destination, "now": now, "parked": PARKED}),
    )
    ended, _ = await database.commit(Unit(steps, (PAUSED, NOTICE)))
    return bool(ended)


async def _rests(database: Database, now: Instant) -> list[tuple[object, ...]]:
    return [*await database.read(RESTS, {"now": now})]


async def _last_error(database: Database, name: str) -> str:
    rows = await database.read(LAST_ERROR, {"lane": name})
    return str(rows[0][0]) if rows else ""


def _minted(mail: int) -> Instant:
    """Return when an id was made, to the millisecond."""
    return Instant(((mail >> 22) + EPOCH_MS) * 1_000)
