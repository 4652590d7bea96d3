"""What an operator does with the queue; the command line and the console are skins on these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.db.unit import Database, Notice, Params, Row, Statement, Step, Unit, Unmet
from gatepost.diary import add
from gatepost.queue.sql import (
    COUNT,
    DROP_MAIL,
    HOLD,
    LIST,
    NEVER,
    RELEASE,
    REMOVE,
    RETRY,
    RETRY_ALL,
    RETRY_LANE,
    SHOW,
    TAKE_OVER,
    TOUCH,
)
from gatepost.queue.submit import NOTICE

PAGE: Final = 100
_RETRY_NOW: Final = Notice("queue_retry")
"""Tells workers that destinations which rest shall be tried all the same."""


class Uses(Protocol):
    """What removal needs of the bodies."""

    def release(self, body_id: int, uses: int = 1) -> tuple[Step, ...]:
        """Return the steps by which fewer rows use a body."""
        ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """One recipient of one waiting mail, as people see it. `last_try` 0: not tried yet; `sender` "" is <>."""

    mail: MailId
    position: int
    sender: str
    recipient: str
    destination: str
    created: Instant
    due: Instant
    last_try: Instant
    attempts: int
    held: bool
    under_way: bool
    bounce: bool
    last_error: str
    body: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How full the queue is."""

    recipients: int
    mails: int
    held: int
    under_way: int


class NotThere(LookupError):
    """No such mail waits (any more)."""


async def list_queue(
    database: Database, *, after: tuple[int, int] = (0, -1), most: int = PAGE
) -> tuple[Waiting, ...]:
    """Return one page by mail and recipient; go on with `after=(last.mail, last.position)`."""
    rows = await database.read(LIST, {"mail": after[0], "position": after[1], "most": min(most, 1_000)})
    return tuple(_waiting(row) for row in rows)


async def show(database: Database, mail: MailId) -> tuple[Waiting, ...]:
    """Return the waiting recipients of one mail; raises NotThere."""
    rows = await database.read(SHOW, {"mail": mail})
    if not rows:
        raise NotThere(mail)
    return tuple(_waiting(row) for row in rows)


async def count(database: Database) -> Counts:
    """Return how full the queue is."""
    ((recipients, mails, held, under_way),) = await database.read_long(COUNT, {})
    return Counts(_int(recipients), _int(mails), _int(held), _int(under_way))


async def retry(database: Database, mail: MailId, now: Instant) -> int:
    """Try a mail now; return how many recipients. What is under way or held stays so."""
    return await _change(database, RETRY, {"mail": mail, "now": now}, _RETRY_NOW)


async def retry_destination(database: Database, destination: str, now: Instant) -> int:
    """Try everything for one destination now, e.g. a primary that is back."""
    return await _change(database, RETRY_LANE, {"lane": destination, "now": now}, _RETRY_NOW)


async def retry_all(database: Database, now: Instant) -> int:
    """Try everything now."""
    return await _change(database, RETRY_ALL, {"now": now}, _RETRY_NOW)


async def hold(database: Database, mail: MailId) -> int:
    """Keep a mail from being tried; return how many recipients. What is under way ends first."""
    return await _change(database, HOLD, {"mail": mail, "never": NEVER})


async def release(database: Database, mail: MailId, now: Instant) -> int:
    """Let a held mail go on."""
    return await _change(database, RELEASE, {"mail": mail, "now": now})


async def remove(
    database: Database, bodies: Uses, mail: MailId, now: Instant, *, positions: Sequence[int] | None = None
) -> int:
    """Delete a mail from the queue, or some of its recipients; nobody is told. Raises NotThere."""
    for _ in range(3):
        rows = [row for row in await show(database, mail) if positions is None or row.position in positions]
        if not rows:
            raise NotThere(mail)
        steps = [Step(TOUCH, {"mail": mail, "now": now})]
        steps += [Step(REMOVE, {"mail": mail, "position": row.position}) for row in rows]
        steps.append(Step(DROP_MAIL, {"mail": mail}))
        steps += bodies.release(rows[0].body, len(rows))
        steps.append(add(mail, "queue", "removed", at=now, recipients=len(rows)))
        try:
            await database.commit(Unit(tuple(steps)))
        except Unmet:
            continue  # one of them was delivered meanwhile: look again
        return len(rows)
    raise NotThere(mail)


async def take_over(database: Database, now: Instant) -> None:
    """Make due what dead workers had leased; only for the start of a server, when no worker lives yet."""
    await database.commit(Unit((Step(TAKE_OVER, {"now": now}),), (NOTICE,)))


async def _change(database: Database, statement: Statement, params: Params, *notices: Notice) -> int:
    (rows,) = await database.commit(Unit((Step(statement, params),), (NOTICE, *notices)))
    return len(rows)


def _waiting(row: Row) -> Waiting:
    mail, position, state, owner, due, attempts, last_try, lane, recipient, error, sender, created, kind, body = row
    return Waiting(
        mail=MailId(_int(mail)),
        position=_int(position),
        sender=str(sender),
        recipient=str(recipient),
        destination=str(lane),
        created=Instant(_int(created)),
        due=Instant(_int(due)),
        last_try=Instant(_int(last_try)),
        attempts=_int(attempts),
        held=bool(state),
        under_way=bool(owner),
        bounce=bool(kind),
        last_error=str(error),
        body=_int(body),
    )


def _int(value: object) -> int:
    """SUM is a NUMERIC in PostgreSQL, which comes as a Decimal."""
    return int(str(value))
