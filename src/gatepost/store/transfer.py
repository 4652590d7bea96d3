"""Copying messages between mailboxes, all or none, and moving them.

What is copied is read first; the unit then asks that nothing of it was expunged meanwhile. New UIDs are
`uidnext - rank`, computed inside the statements from the target's row; target and source may be the same mailbox.
Keyword bits differ from mailbox to mailbox: the fixed flags are copied by the set, keywords message by message.
"""

from dataclasses import dataclass
from typing import cast

from gatepost.accounts.model import Quota
from gatepost.base.address import fold
from gatepost.db.unit import Clash, Database, Notice, Params, Step, Unit, Unmet
from gatepost.store import sql
from gatepost.store.bodies import Bodies, add_uses
from gatepost.store.flags import FIXED_MASK, KEYWORD_MASK
from gatepost.store.message import quota_steps
from gatepost.store.model import Busy, Copied, Mailbox, MailboxId, NoSuchMailbox, OverQuota, TooMany
from gatepost.store.removal import ATTEMPTS, MESSAGES_A_UNIT, read_state, removal_steps, take_out_step
from gatepost.store.uids import Ranges, above, clip


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is copied: for each range its rows (uid, flags, body, size), ascending."""

    source: Mailbox
    ranges: Ranges
    rows: tuple[tuple[tuple[int, int, int, int], ...], ...]

    def first(self, most: int) -> "_Chosen":
        """Return the same with the first `most` messages alone."""
        ranges, rows = [], []
        for (low, high), part in zip(self.ranges, self.rows, strict=True):
            if most > 0:
                kept = part[:most]
                ranges.append((low, high if len(kept) == len(part) else kept[-1][0]))
                rows.append(kept)
                most -= len(kept)
        return _Chosen(self.source, tuple(ranges), tuple(rows))

    @property
    def all(self) -> list[tuple[int, int, int, int]]:
        return [row for part in self.rows for row in part]


async def copy(
    database: Database, bodies: Bodies, source: MailboxId, ranges: Ranges, target: MailboxId, quota: Quota
) -> Copied | None:
    """Copy messages in one unit; None when there are none."""
    for _ in range(ATTEMPTS):
        chosen = await _choose(database, source, ranges)
        if not chosen.all:
            return None
        keywords = await _keyword_map(database, chosen, target)
        still = {
            "mailbox": source,
            "account": chosen.source.account,
            "expunge_modseq": chosen.source.expunge_modseq,
        }
        steps = (
            *_in_order(Step(sql.STILL_THERE, still), _make_room(chosen, target)),
            *quota_steps(target, quota),
            *_copy_steps(chosen, target, keywords),
            *add_uses(bodies, (body for _, _, body, _ in chosen.all)),
        )
        copied = await _commit(database, chosen, target, Unit(steps, (Notice("mailbox", target),)))
        if copied is not None:
            return copied
    raise Busy("others keep changing these messages; try again")


async def move(database: Database, source: MailboxId, ranges: Ranges, target: MailboxId) -> Copied | None:
    """Move messages, 1,000 in a unit; None when there are none. The bodies' uses stay as they are."""
    moved: list[Copied] = []
    state = await read_state(database, source)
    left = clip(ranges, state.uidnext - 1)
    while left and (part := await _move_some(database, source, left, target)) is not None:
        moved.append(part)
        left = above(left, part.uids[-1][0])
    if not moved:
        return None
    return Copied(target, moved[-1].uidvalidity, tuple(pair for part in moved for pair in part.uids))


async def _move_some(database: Database, source: MailboxId, ranges: Ranges, target: MailboxId) -> Copied | None:
    """Move the first 1,000 messages of `ranges`."""
    for _ in range(ATTEMPTS):
        chosen = (await _choose(database, source, ranges)).first(MESSAGES_A_UNIT)
        rows = chosen.all
        if not rows:
            return None
        keywords = await _keyword_map(database, chosen, target)
        octets = sum(size for *_, size in rows)
        take_out = take_out_step(chosen.source, len(rows), octets, flags_matter=False)
        steps = (
            *_in_order(take_out, _make_room(chosen, target)),
            *_copy_steps(chosen, target, keywords),
            *removal_steps(source, chosen.ranges, 0),
        )
        notices = (Notice("mailbox", source), Notice("mailbox", target))
        copied = await _commit(database, chosen, target, Unit(steps, notices))
        if copied is not None:
            return copied
    raise Busy("others keep changing these messages; try again")


async def _commit(database: Database, chosen: _Chosen, target: MailboxId, unit: Unit) -> Copied | None:
    """Commit and return the pairs of UIDs; None when the source has changed and must be read again."""
    try:
        returned = await database.commit(unit)
    except Unmet as unmet:
        if unmet.statement == sql.KEEP_QUOTA.name:
            raise OverQuota("the account is full") from None
        if unmet.statement == sql.MAKE_ROOM.name:
            raise NoSuchMailbox("there is no such mailbox") from None
        return None
    # MAKE_ROOM returns (id, uidvalidity, uidnext, modseq), TAKE_OUT only its modseq; which came first is by id.
    row = next(rows[0] for rows in returned if rows and len(rows[0]) == 4)
    _, uidvalidity, uidnext, _ = cast(tuple[int, int, int, int], row)
    uids = [uid for uid, *_ in chosen.all]
    return Copied(target, uidvalidity, tuple(zip(uids, range(uidnext - len(uids), uidnext), strict=True)))


async def _choose(database: Database, source: MailboxId, ranges: Ranges) -> _Chosen:
    state = await read_state(database, source)
    ranges = clip(ranges, state.uidnext - 1)
    found: list[tuple[tuple[int, int], tuple[tuple[int, int, int, int], ...]]] = []
    for low, high in ranges:
        rows = await database.read_long(sql.TO_COPY, {"mailbox": source, "low": low, "high": high})
        if rows:
            found.append(((low, high), tuple(cast(list[tuple[int, int, int, int]], rows))))  # the columns' types
    return _Chosen(state, tuple(span for span, _ in found), tuple(rows for _, rows in found))


def _in_order(of_source: Step, of_target: Step) -> tuple[Step, Step]:
    """Return both steps so that mailbox rows are locked in the order of their ids: no deadlock in PostgreSQL."""
    if cast(int, of_source.params["mailbox"]) <= cast(int, of_target.params["mailbox"]):  # both are ids
        return of_source, of_target
    return of_target, of_source


def _make_room(chosen: _Chosen, target: MailboxId) -> Step:
    rows = chosen.all
    octets = sum(size for *_, size in rows)
    return Step(sql.MAKE_ROOM, {"mailbox": target, "count": len(rows), "octets": octets})


def _copy_steps(chosen: _Chosen, target: MailboxId, keywords: dict[int, int]) -> tuple[Step, ...]:
    """Return the steps that fill the room, range by range; `after` counts the messages of later ranges."""
    steps: list[Step] = []
    after = len(chosen.all)
    back = after
    for (low, high), rows in zip(chosen.ranges, chosen.rows, strict=True):
        after -= len(rows)
        span = {"source": chosen.source.id, "target": target, "low": low, "high": high, "after": after}
        steps.append(Step(sql.COPY_LISTING, span))
        steps.append(Step(sql.COPY_FLAGS, {**span, "keep": FIXED_MASK}))
        for _, flags, _, _ in rows:
            if flags & KEYWORD_MASK:
                add = sum(theirs for ours, theirs in keywords.items() if flags & ours)
                steps.append(Step(sql.ADD_COPIED_KEYWORDS, {"target": target, "back": back, "add": add}))
            back -= 1
    return tuple(steps)


async def _keyword_map(database: Database, chosen: _Chosen, target: MailboxId) -> dict[int, int]:
    """Return the target's bit for each keyword bit in use, giving bits to new ones; raises TooMany."""
    used = 0
    for _, flags, _, _ in chosen.all:
        used |= flags & KEYWORD_MASK
    if not used:
        return {}
    names = {bit: name for bit, name in (await _keywords(database, chosen.source.id)).items() if used & bit}
    params: list[Params] = [{"mailbox": target, "name": name, "folded": fold(name)} for name in names.values()]
    try:
        await database.commit(Unit(tuple(Step(sql.ADD_KEYWORD, each) for each in params)))
    except Clash:
        raise TooMany("the other mailbox has as many keywords as it can") from None
    theirs = {fold(name): bit for bit, name in (await _keywords(database, target)).items()}
    return {bit: theirs[fold(name)] for bit, name in names.items() if fold(name) in theirs}


async def _keywords(database: Database, mailbox: MailboxId) -> dict[int, str]:
    rows = cast(list[tuple[int, str]], await database.read(sql.KEYWORDS, {"mailbox": mailbox}))  # bit, name
    return {1 << bit: name for bit, name in rows}
