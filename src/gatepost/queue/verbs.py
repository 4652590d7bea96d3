"""What an operator does with the queue; the command line and the console are skins on these."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gatepost.allowance.allowance import let_go_step
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId
from gatepost.db.unit import Database, Notice, Params, Row, Statement, Step, Unit, Unmet
from gatepost.diary import add
from gatepost.queue.sql import (
    COUNT,
    COUNT_LANE,
    COUNT_SENDER,
    DROP_MAIL,
    HOLD,
    HOLD_ONE,
    LANES,
    LIST,
    LIST_LANE,
    LIST_SENDER,
    NEVER,
    PARKED,
    RELEASE,
    RELEASE_ONE,
    REMOVE,
    REMOVE_IDLE,
    RETRY,
    RETRY_ALL,
    RETRY_LANE,
    RETURN,
    RETURNED,
    SHOW,
    TAKE_OVER,
    TOUCH,
    WAKE,
    WAKE_ALL,
)
from gatepost.queue.submit import NOTICE

PAGE: Final = 100
AT_ONCE: Final = 500
"""Recipients that one unit changes where many are chosen: the workers' units go on in between."""
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
    paused: bool
    """It fell due while its destination was paused."""
    under_way: bool
    bounce: bool
    last_error: str
    body: int
    priority: int = 0
    """-9 to 9 (RFC 6710)."""
    not_before: Instant = Instant(0)
    """Its sender had it held back until then; 0: it did not, or the operator released it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How full the queue is."""

    recipients: int
    mails: int
    held: int
    under_way: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Waiting recipients of one destination, of one sender, or of both; `sender` "" is <>, None is anybody."""

    destination: str = ""
    sender: str | None = None

    def __post_init__(self) -> None:
        if not self.destination and self.sender is None:
            raise ValueError("choose a destination, a sender or both")


class NotThere(LookupError):
    """No such mail waits (any more)."""


class Untold(ValueError):
    """Nobody can be told of this mail's failure: it is a report itself, or has no sender."""


async def list_queue(
    database: Database, *, after: tuple[int, int] = (0, -1), most: int = PAGE
) -> tuple[Waiting, ...]:
    """Return one page by mail and recipient; go on with `after=(last.mail, last.position)`."""
    rows = await database.read(LIST, {"mail": after[0], "position": after[1], "most": min(most, 1_000)})
    return tuple(_waiting(row) for row in rows)


async def list_chosen(
    database: Database, choice: Choice, *, after: Waiting | None = None, most: int = PAGE
) -> tuple[Waiting, ...]:
    """Return one page: of a destination the most urgent and soonest due first, of a sender the oldest first."""
    at: Params = {"mail": 0, "position": -1} if after is None else {"mail": after.mail, "position": after.position}
    at = {**at, "most": min(most, 1_000)}
    if choice.destination:
        at |= {"urgency": -100, "due": -1} if after is None else {"urgency": -after.priority, "due": after.due}
        rows = await database.read_long(LIST_LANE, {**at, **_named(choice)})
    else:
        rows = await database.read_long(LIST_SENDER, {**at, "sender": choice.sender})
    return tuple(_waiting(row) for row in rows)


async def show(database: Database, mail: MailId) -> tuple[Waiting, ...]:
    """Return the waiting recipients of one mail; raises NotThere."""
    rows = await database.read(SHOW, {"mail": mail})
    if not rows:
        raise NotThere(mail)
    return tuple(_waiting(row) for row in rows)


async def count(database: Database) -> Counts:
    """Return how full the queue is."""
    (row,) = await database.read_long(COUNT, {})
    return _counts(row)


async def count_chosen(database: Database, choice: Choice) -> Counts:
    """Return how much a choice holds."""
    if choice.destination:
        (row,) = await database.read_long(COUNT_LANE, _named(choice))
    else:
        (row,) = await database.read_long(COUNT_SENDER, {"sender": choice.sender})
    return _counts(row)


async def retry(database: Database, mail: MailId, now: Instant) -> int:
    """Try a mail now, even before its time; return how many recipients. What is under way or held stays so."""
    return await _change(database, RETRY, {"mail": mail, "now": now}, _RETRY_NOW)


async def retry_destination(database: Database, destination: str, now: Instant) -> int:
    """Try everything for one destination now, e.g. a primary that is back; but what waits for its own time."""
    retried = Step(RETRY_LANE, {"lane": destination, "now": now})
    awake = Step(WAKE, {"lane": destination})
    (rows,) = await database.commit(Unit((retried, awake), (NOTICE, _RETRY_NOW)))
    return len(rows)


async def retry_all(database: Database, now: Instant) -> int:
    """Try everything now but what waits for its own time."""
    units = Unit((Step(RETRY_ALL, {"now": now}), Step(WAKE_ALL, {})), (NOTICE, _RETRY_NOW))
    (rows,) = await database.commit(units)
    return len(rows)


async def destinations_of(database: Database, domain: str, most: int = 100) -> list[str]:
    """Return the destinations below a domain for which mail waits."""
    rows = await database.read_long(LANES, {})
    return [name for (lane,) in rows if (name := str(lane)).endswith(f".{domain}")][:most]


async def hold(database: Database, mail: MailId) -> int:
    """Keep a mail from being tried; return how many recipients. What is under way ends first."""
    return await _change(database, HOLD, {"mail": mail, "never": NEVER})


async def release(database: Database, mail: MailId, now: Instant) -> int:
    """Let a mail go on that was held, or that waits for the time its sender gave."""
    steps = (Step(RELEASE, {"mail": mail, "now": now}), let_go_step(mail))
    (rows,) = await database.commit(Unit(steps, (NOTICE,)))
    return len(rows)


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
        steps.append(let_go_step(mail))
        steps += bodies.release(rows[0].body, len(rows))
        steps.append(add(mail, "queue", "removed", at=now, recipients=len(rows)))
        try:
            await database.commit(Unit(tuple(steps)))
        except Unmet:
            continue  # one of them was delivered meanwhile: look again
        return len(rows)
    raise NotThere(mail)


async def hold_chosen(database: Database, choice: Choice) -> int:
    """Keep a choice from being tried; return how many recipients. What is under way is left."""
    return await _change_each(database, HOLD_ONE, choice, {"never": NEVER})


async def release_chosen(database: Database, choice: Choice, now: Instant) -> int:
    """Let what is held of a choice go on; return how many recipients."""
    return await _change_each(database, RELEASE_ONE, choice, {"now": now})


async def remove_chosen(database: Database, bodies: Uses, choice: Choice, now: Instant) -> int:
    """Delete a choice from the queue, nobody is told; return how many recipients. What is under way is left."""
    removed = 0
    async for page in _pages(database, choice):
        mails = defaultdict(list)
        for row in page:
            if not row.under_way:
                mails[row.mail].append(row)
        try:
            await database.commit(_removal(bodies, tuple(mails.values()), now))
            removed += sum(map(len, mails.values()))
        except Unmet:  # one of them was delivered, or has just been taken up: one by one, then
            for rows in mails.values():
                for row in rows:
                    removed += await _remove_idle(database, bodies, row, now)
    return removed


async def give_back(database: Database, mail: MailId, now: Instant) -> int:
    """Return a mail to its sender as failed, now; return how many recipients. Raises NotThere, Untold.

    A worker does it: it moves into a lane of its own, which leads to nobody but the sender.
    """
    first = (await show(database, mail))[0]
    if first.bounce or not first.sender:
        raise Untold(mail)
    steps = (
        Step(RETURN, {"mail": mail, "lane": RETURNED, "now": now}),
        add(mail, "queue", "returned", at=now, by="operator"),
    )
    (rows,) = await database.commit(Unit(steps, (NOTICE,)))
    return len(rows)


async def take_over(database: Database, now: Instant) -> None:
    """Make due what dead workers had leased; only for the start of a server, when no worker lives yet."""
    await database.commit(Unit((Step(TAKE_OVER, {"now": now}),), (NOTICE,)))


async def _change(database: Database, statement: Statement, params: Params, *notices: Notice) -> int:
    (rows,) = await database.commit(Unit((Step(statement, params),), (NOTICE, *notices)))
    return len(rows)


async def _pages(database: Database, choice: Choice) -> AsyncIterator[tuple[Waiting, ...]]:
    """Yield a choice page by page; what changes meanwhile is seen once or not at all."""
    last: Waiting | None = None
    while page := await list_chosen(database, choice, after=last, most=AT_ONCE):
        yield page
        last = page[-1]


async def _change_each(database: Database, statement: Statement, choice: Choice, params: Params) -> int:
    changed = 0
    async for page in _pages(database, choice):
        steps = (Step(statement, {**params, "mail": row.mail, "position": row.position}) for row in page)
        changed += sum(map(len, await database.commit(Unit(tuple(steps), (NOTICE,)))))
    return changed


def _removal(bodies: Uses, mails: Sequence[Sequence[Waiting]], now: Instant) -> Unit:
    """Return the unit that deletes some recipients of each mail."""
    steps: list[Step] = []
    for rows in mails:
        mail = rows[0].mail
        steps.append(Step(TOUCH, {"mail": mail, "now": now}))
        steps += [Step(REMOVE_IDLE, {"mail": mail, "position": row.position}) for row in rows]
        steps.append(Step(DROP_MAIL, {"mail": mail}))
        steps.append(let_go_step(mail))
        steps += bodies.release(rows[0].body, len(rows))
        steps.append(add(mail, "queue", "removed", at=now, recipients=len(rows)))
    return Unit(tuple(steps))


async def _remove_idle(database: Database, bodies: Uses, row: Waiting, now: Instant) -> int:
    try:
        await database.commit(_removal(bodies, ((row,),), now))
    except Unmet:
        return 0
    return 1


def _named(choice: Choice) -> dict[str, int | str]:
    return {
        "lane": choice.destination,
        "anyone": 1 if choice.sender is None else 0,
        "sender": choice.sender or "",
    }


def _counts(row: Row) -> Counts:
    recipients, mails, held, under_way = row
    return Counts(_int(recipients), _int(mails), _int(held), _int(under_way))


def _waiting(row: Row) -> Waiting:
    mail, position, state, owner, due, attempts, last_try, lane, recipient, error, sender, *rest = row
    created, kind, body, urgency, not_before = rest
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
        paused=due == PARKED,
        under_way=bool(owner),
        bounce=bool(kind),
        last_error=str(error),
        body=_int(body),
        priority=-_int(urgency),
        not_before=Instant(_int(not_before)),
    )


def _int(value: object) -> int:
    """SUM is a NUMERIC in PostgreSQL, which comes as a Decimal."""
    return int(str(value))
