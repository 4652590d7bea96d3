"""Taking messages out of mailboxes, with the bodies they used, and finishing what was deleted.

The bodies must be released in the unit that removes their rows, and their ids known before it is made. So the
messages are read first, and the unit's first step asks that nothing was expunged and no flag changed since
(`sql.TAKE_OUT`); when something was, they are read again.
"""

from typing import Final, cast

from gatepost.db.unit import Database, Notice, Rows, Step, Unit, Unmet
from gatepost.store import sql
from gatepost.store.bodies import Bodies, release_uses
from gatepost.store.flags import DELETED
from gatepost.store.model import Busy, Mailbox, MailboxId, NoSuchMailbox, Removed
from gatepost.store.reading import mailbox_of
from gatepost.store.uids import Ranges

MESSAGES_A_UNIT: Final = 1_000
ATTEMPTS: Final = 10
NEVER: Final = 1 << 62
"""More than any UID or modseq."""

RECORDS_MAX: Final = 50_000
"""Expunges of one mailbox that stay on record for QRESYNC; older ones make a client compare the whole mailbox."""


async def expunge(
    database: Database, bodies: Bodies, mailbox: MailboxId, ranges: Ranges | None, *, whatever_flags: bool
) -> Removed:
    """Remove messages in units of 1,000; raises NoSuchMailbox, Busy."""
    state = await read_state(database, mailbox)
    mask = 0 if whatever_flags else DELETED
    removed: list[int] = []
    modseq = state.modseq
    for low, high in ((1, state.uidnext - 1),) if ranges is None else ranges:
        while low <= high:
            part = await _remove(database, bodies, mailbox, low, high, mask)
            if not part.uids:
                break
            removed += part.uids
            modseq = part.modseq
            low = part.uids[-1] + 1
    return Removed(modseq, removed)


async def purge(database: Database, bodies: Bodies, mailbox: MailboxId) -> None:
    """Remove what is left of a detached mailbox; raises Busy."""
    drop = (sql.DROP_EXPUNGED, sql.DROP_KEYWORDS, sql.DROP_MAILBOX)
    try:
        while (await _remove(database, bodies, mailbox, 0, NEVER, 0, detached=True)).uids:
            pass
        await database.commit(Unit(tuple(Step(each, {"mailbox": mailbox}) for each in drop)))
    except (NoSuchMailbox, Unmet):
        return  # another process has just done it


async def sweep(database: Database, bodies: Bodies) -> int:
    """Purge detached mailboxes and shorten long records of expunges."""
    done = 0
    for (mailbox,) in await database.read_long(sql.DETACHED, {}):
        await purge(database, bodies, MailboxId(cast(int, mailbox)))  # the column is the BIGINT key
        done += 1
    for mailbox, _ in await database.read_long(sql.LONG_RECORDS, {"most": RECORDS_MAX}):
        await _forget(database, MailboxId(cast(int, mailbox)))
        done += 1
    return done


async def _forget(database: Database, mailbox: MailboxId) -> None:
    """Drop the oldest records of a mailbox, and note up to which modseq they are gone."""
    rows = await database.read_long(sql.RECORD_AT, {"mailbox": mailbox, "most": RECORDS_MAX // 2})
    if rows:
        params = {"mailbox": mailbox, "modseq": rows[0][0]}
        await database.commit(Unit((Step(sql.FORGOTTEN, params), Step(sql.FORGET_EXPUNGED, params))))


async def _remove(
    database: Database,
    bodies: Bodies,
    mailbox: MailboxId,
    low: int,
    high: int,
    mask: int,
    *,
    detached: bool = False,
) -> Removed:
    """Remove the first 1,000 messages between `low` and `high` that have all flags of `mask`."""
    for _ in range(ATTEMPTS):
        state = await read_state(database, mailbox, detached=detached)
        params = {"mailbox": mailbox, "low": low, "high": high, "mask": mask, "most": MESSAGES_A_UNIT}
        rows = await database.read_long(sql.TO_REMOVE, params)
        if not rows:
            return Removed(state.modseq, [])
        try:
            return await _take_out(database, bodies, state, rows, mask)
        except Unmet:
            continue
    raise Busy("others keep changing these messages; try again")


async def _take_out(database: Database, bodies: Bodies, state: Mailbox, rows: Rows, mask: int) -> Removed:
    found = cast(list[tuple[int, int, int]], rows)  # the columns of TO_REMOVE: uid, body, size
    uids = [uid for uid, _, _ in found]
    steps = (
        take_out_step(state, len(uids), sum(size for _, _, size in found), flags_matter=bool(mask)),
        *removal_steps(state.id, ((uids[0], uids[-1]),), mask),
        *release_uses(bodies, (body for _, body, _ in found)),
    )
    returned = await database.commit(Unit(steps, (Notice("mailbox", state.id),)))
    return Removed(cast(int, returned[0][0][0]), uids)  # RETURNING modseq


def take_out_step(state: Mailbox, count: int, octets: int, *, flags_matter: bool) -> Step:
    """Return the step that counts messages out, if since `state` none was expunged and no flag changed."""
    params = {
        "mailbox": state.id,
        "account": state.account,
        "expunge_modseq": state.expunge_modseq,
        "flag_modseq": state.flag_modseq if flags_matter else NEVER,
        "count": count,
        "octets": octets,
    }
    return Step(sql.TAKE_OUT, params)


def removal_steps(mailbox: MailboxId, ranges: Ranges, mask: int) -> tuple[Step, ...]:
    """Return the steps that drop the rows of all messages in `ranges` with the flags of `mask`, and record them."""
    return tuple(
        Step(statement, {"mailbox": mailbox, "low": low, "high": high, "mask": mask})
        for low, high in ranges
        for statement in (sql.LOG_EXPUNGED, sql.DROP_LISTINGS, sql.DROP_FLAGS)
    )


async def read_state(database: Database, mailbox: MailboxId, *, detached: bool = False) -> Mailbox:
    """Return a mailbox row, of a detached one if that is asked for; raises NoSuchMailbox."""
    rows = await database.read(sql.DETACHED_BY_ID if detached else sql.MAILBOX_BY_ID, {"mailbox": mailbox})
    if not rows:
        raise NoSuchMailbox("there is no such mailbox")
    return mailbox_of(rows[0])
