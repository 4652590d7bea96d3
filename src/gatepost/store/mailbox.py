"""Mailboxes as their readers use them: find, list, read, change, append, copy, expunge.

Every change is one unit and tells topic `mailbox` with the mailbox's id; a change of names tells topic `mailboxes`
with the account's. UIDs and modification sequences come from the mailbox row inside the unit, so they grow
strictly whoever else writes. Which mailbox a user may open is settled by name and account (`find`); all other
calls take the id found there.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final, cast

from gatepost.accounts.model import NO_QUOTA, Quota
from gatepost.aio.offload import offload
from gatepost.base.address import fold
from gatepost.base.clock import Instant
from gatepost.base.ids import MailId, Minter
from gatepost.db.unit import Clash, Database, Row, Rows, Statement, Step, Unit, Unmet
from gatepost.store import naming, removal, sql, transfer
from gatepost.store.bodies import Bodies
from gatepost.store.describe import describe
from gatepost.store.flags import EVERY_FLAG, check_keyword
from gatepost.store.message import append_notice, append_steps
from gatepost.store.model import (
    INBOX,
    Appended,
    Changed,
    Copied,
    Mailbox,
    MailboxId,
    News,
    NoSuchMailbox,
    NoSuchMessage,
    OverQuota,
    Removed,
    Status,
    TooMany,
    Wanted,
)
from gatepost.store.names import check_name
from gatepost.store.reading import FlagRow, flag_rows, mailbox_of
from gatepost.store.uids import Ranges

PAGE: Final = 250
"""Listings read at a time: some 250 KB, under 2 ms on the loop."""

SHORT_SCAN: Final = 2_000
"""Flag rows that are read on the loop; more are read in a thread."""

RANGES_A_UNIT: Final = 500
DESCRIBE_HERE_OCTETS: Final = 32 * 1024
"""Larger messages are parsed in a thread."""

NEVER: Final = (1 << 62) - 1
"""A modseq that no row reaches."""


class Mailboxes:
    """All mailboxes of one database."""

    def __init__(self, database: Database, bodies: Bodies, minter: Minter) -> None:
        self._database = database
        self._bodies = bodies
        self._minter = minter
        self._inboxes: dict[int, MailboxId] = {}
        database.listen("mailboxes", self._forget)

    # Names.

    async def of(self, account: int) -> tuple[Mailbox, ...]:
        """Return all mailboxes of an account, by name in byte order."""
        rows = await self._database.read(sql.MAILBOXES_OF, {"account": account})
        return tuple(mailbox_of(row) for row in rows)

    async def find(self, account: int, name: str) -> Mailbox:
        """Return the mailbox of that name, INBOX in any case; raises NoSuchMailbox (also for impossible names)."""
        return await naming.find(self._database, account, name)

    async def get(self, mailbox: MailboxId) -> Mailbox:
        """Return a mailbox as it is now; raises NoSuchMailbox when it was deleted."""
        rows = await self._database.read(sql.MAILBOX_BY_ID, {"mailbox": mailbox})
        if not rows:
            raise NoSuchMailbox("there is no such mailbox")
        return mailbox_of(rows[0])

    async def inbox(self, account: int) -> MailboxId:
        """Return the INBOX of an account, from memory after the first time; raises NoSuchMailbox."""
        known = self._inboxes.get(account)
        if known is not None:
            return known
        rows = await self._database.read(sql.INBOX_OF, {"account": account})
        if not rows:
            raise NoSuchMailbox("this account has no INBOX")
        if len(self._inboxes) >= 10_000:
            self._inboxes.clear()
        self._inboxes[account] = found = MailboxId(int(cast(int, rows[0][0])))  # the column is BIGINT
        return found

    async def create(self, account: int, name: str, now: Instant, *, special: str = "") -> Mailbox:
        """Make a mailbox and those above it that are missing.

        Raises BadName, MailboxExists, TooMany (10,000 of an account).
        """
        return await naming.create(self._database, self._minter, account, name, now, special=special)

    async def delete(self, account: int, name: str) -> None:
        """Delete a mailbox with its messages; those below it stay. Raises NoSuchMailbox, NotAllowed (INBOX).

        It is gone for everybody at once; its messages are removed in units of 1,000, which `sweep` takes up again
        should the process die in between.
        """
        mailbox = await naming.detach(self._database, account, name)
        await removal.purge(self._database, self._bodies, mailbox)

    async def rename(self, account: int, old: str, new: str, now: Instant) -> None:
        """Rename a mailbox and all below it; renaming INBOX moves its messages away and leaves it empty.

        Raises NoSuchMailbox, MailboxExists, BadName, NotAllowed (below itself), TooMany.
        """
        if check_name(old) != INBOX:
            await naming.rename(self._database, self._minter, account, old, new, now)
            return
        target = await self.create(account, new, now)  # RFC 9051 §6.3.6
        inbox = await self.find(account, INBOX)
        await self.move(inbox.id, ((1, inbox.uidnext - 1),), target.id)

    async def subscribe(self, account: int, name: str) -> None:
        """Subscribe to a name, which need not exist (RFC 9051 §6.3.7); raises BadName, TooMany."""
        await naming.subscribe(self._database, account, name)

    async def unsubscribe(self, account: int, name: str) -> None:
        """Undo `subscribe`; a name that is not subscribed is no mistake. Raises BadName."""
        await naming.unsubscribe(self._database, account, name)

    async def subscriptions(self, account: int) -> tuple[str, ...]:
        """Return all subscribed names, in byte order, whether the mailboxes exist or not."""
        rows = await self._database.read(sql.SUBSCRIPTIONS, {"account": account})
        return tuple(str(row[0]) for row in rows)

    async def status(self, mailbox: MailboxId) -> Status:
        """Return the mailbox with its counts of unseen and deleted messages; raises NoSuchMailbox."""
        rows = await self._database.read_long(sql.STATUS, {"mailbox": mailbox})
        if not rows:
            raise NoSuchMailbox("there is no such mailbox")
        unseen, deleted = cast(tuple[int, int], rows[0][-2:])  # two COUNTs
        return Status(mailbox_of(rows[0][:-2]), unseen, deleted)

    async def usage(self, account: int) -> tuple[int, int]:
        """Return (octets, messages) of an account: what its quota is compared with."""
        rows = await self._database.read(sql.USAGE, {"account": account})
        octets, messages = rows[0]
        return int(cast(int, octets)), int(cast(int, messages))  # PostgreSQL's SUM is a Decimal

    # Reading.

    async def rows(self, mailbox: MailboxId, since_modseq: int = 0, *, messages: int = NEVER) -> list[FlagRow]:
        """Return (uid, flags, modseq) of all messages changed after `since_modseq`, by UID; 0 stands for all.

        `messages` is how many the mailbox has, where the caller knows: a small mailbox is read without a thread.
        """
        statement = sql.ROWS_SINCE if since_modseq else sql.ROWS
        params = {"mailbox": mailbox, "since": since_modseq}
        read = self._database.read if messages <= SHORT_SCAN else self._database.read_long
        return flag_rows(await read(statement, params))

    async def news(self, mailbox: MailboxId, modseq: int, uidnext: int) -> News:
        """Return what happened since a reader saw `modseq` and `uidnext`; raises NoSuchMailbox.

        Cheap where nothing happened (one row), and where only new messages arrived (those rows alone).
        """
        now = await self.get(mailbox)
        rows: list[FlagRow] = []
        if now.flag_modseq > modseq:
            rows = await self.rows(mailbox, modseq, messages=now.messages)
        elif now.uidnext > uidnext:
            params = {"mailbox": mailbox, "uid": uidnext}
            rows = flag_rows(await self._database.read(sql.ROWS_FROM, params))
        expunged = await self.expunged_since(mailbox, modseq) if now.expunge_modseq > modseq else []
        return News(now, rows, expunged, complete=modseq >= now.forgotten_modseq)

    async def expunged_since(self, mailbox: MailboxId, modseq: int) -> list[int]:
        """Return the UIDs expunged after `modseq`, ascending; not whole below `Mailbox.forgotten_modseq`."""
        rows = await self._database.read(sql.EXPUNGED_SINCE, {"mailbox": mailbox, "since": modseq})
        return sorted(cast(int, row[0]) for row in rows)  # the column is BIGINT

    async def listing(
        self, mailbox: MailboxId, ranges: Ranges, wanted: Wanted = Wanted.FACTS, *, page: int = PAGE
    ) -> AsyncIterator[Rows]:
        """Yield listings in ascending order of UID, a page at a time; UIDs that do not exist are left out.

        A row is (uid, body, message, size, internal_date, sent_at, sent_zone, header_end) and then, of envelope,
        structure, body_structure, sections, fields, those that are wanted, in this order, as octets; fields may be
        None.
        """
        async for rows in self._pages(sql.READ_LISTING[wanted.value], mailbox, ranges, page):
            yield rows

    async def sort_keys(self, mailbox: MailboxId, ranges: Ranges) -> Rows:
        """Return (uid, internal_date, sent_at, sent_zone, size, subject, from, to, cc) for SORT (RFC 5256)."""
        return [row async for page in self._pages(sql.SORT_KEYS, mailbox, ranges, PAGE) for row in page]

    async def thread_keys(self, mailbox: MailboxId, ranges: Ranges) -> Rows:
        """Return (uid, internal_date, sent_at, subject, packed ids) for THREAD (RFC 5256); see store.thread."""
        return [row async for page in self._pages(sql.THREAD_KEYS, mailbox, ranges, PAGE) for row in page]

    async def body(self, mailbox: MailboxId, uid: int) -> bytes:
        """Return the octets of one message; raises NoSuchMessage and what blobs' `get` raises."""
        params = {"mailbox": mailbox, "low": uid, "high": uid, "most": 1}
        rows = await self._database.read(sql.READ_LISTING[0], params)
        if not rows:
            raise NoSuchMessage("this message was expunged")
        return await self.content(MailId(cast(int, rows[0][1])))  # BIGINT, not NULL

    async def content(self, body: MailId) -> bytes:
        """Return the octets of a body that a listing names."""
        return await self._bodies.get(body)

    # Flags.

    async def keywords(self, mailbox: MailboxId) -> dict[int, str]:
        """Return a mailbox's own keywords: bit (1 << 16 and up) to name."""
        rows = cast(list[tuple[int, str]], await self._database.read(sql.KEYWORDS, {"mailbox": mailbox}))
        return {1 << bit: name for bit, name in rows}

    async def add_keywords(self, mailbox: MailboxId, names: Iterable[str]) -> dict[int, str]:
        """Give bits to keywords that have none yet; return all as `keywords` does.

        Raises BadKeyword, and TooMany when the 46 bits of a mailbox do not suffice: then none was added.
        """
        steps = tuple(
            Step(sql.ADD_KEYWORD, {"mailbox": mailbox, "name": check_keyword(name), "folded": fold(name)})
            for name in names
        )
        try:
            await self._database.commit(Unit(steps, (append_notice(mailbox),)))
        except Clash:
            raise TooMany("this mailbox has as many keywords as it can") from None
        return await self.keywords(mailbox)

    async def change_flags(
        self,
        mailbox: MailboxId,
        ranges: Ranges,
        *,
        add: int = 0,
        remove: int = 0,
        replace: int | None = None,
        unchanged_since: int | None = None,
    ) -> Changed:
        """Change flags of all messages in `ranges`: add, remove, or replace the whole mask.

        Rows whose flags already are so keep their modseq and are not in the answer. With `unchanged_since` a
        message changed after it is left alone and named in `modified`. Raises NoSuchMailbox.
        """
        keep = 0 if replace is not None else EVERY_FLAG & ~remove
        change = {"keep": keep, "add": add if replace is None else replace}
        done = Changed(0, [], [])
        for at in range(0, len(ranges), RANGES_A_UNIT):
            part = await self._change(mailbox, ranges[at : at + RANGES_A_UNIT], change, unchanged_since)
            done = Changed(part.modseq, done.rows + part.rows, done.modified + part.modified)
        return done

    # Adding and taking away.

    async def append(
        self,
        mailbox: MailboxId,
        raw: bytes,
        flags: int,
        internal_date: Instant,
        now: Instant,
        quota: Quota = NO_QUOTA,
    ) -> Appended:
        """Store a message; durable when this returns. Raises NoSuchMailbox, OverQuota."""
        body = self._minter.mint(now)
        where = len(raw) > DESCRIBE_HERE_OCTETS
        listing = await offload(describe, raw, internal_date) if where else describe(raw, internal_date)
        steps = (
            *await self._bodies.put(body, raw, 1),
            *append_steps(mailbox, body, listing, flags, internal_date, body, quota),
        )
        try:
            returned = await self._database.commit(Unit(steps, (append_notice(mailbox),)))
        except Unmet as unmet:
            raise no_for(unmet) from None
        return appended_of(returned[-1][0])

    async def copy(
        self, source: MailboxId, ranges: Ranges, target: MailboxId, quota: Quota = NO_QUOTA
    ) -> Copied | None:
        """Copy messages with their flags and dates, all or none; None when `ranges` holds none.

        Raises NoSuchMailbox, OverQuota, TooMany (keywords), Busy.
        """
        return await transfer.copy(self._database, self._bodies, source, ranges, target, quota)

    async def move(self, source: MailboxId, ranges: Ranges, target: MailboxId) -> Copied | None:
        """Move messages (RFC 6851), 1,000 in a unit, so that each is in one of the mailboxes and never in both.

        No body is touched, no quota asked. Raises as `copy` does; what was moved until then stays moved.
        """
        return await transfer.move(self._database, source, ranges, target)

    async def expunge(
        self, mailbox: MailboxId, ranges: Ranges | None = None, *, whatever_flags: bool = False
    ) -> Removed:
        """Remove the messages of `ranges` (None: all) that have \\Deleted, or with `whatever_flags` all of them.

        Done in units of 1,000. Raises NoSuchMailbox, Busy.
        """
        return await removal.expunge(self._database, self._bodies, mailbox, ranges, whatever_flags=whatever_flags)

    async def sweep(self) -> int:
        """Finish interrupted deletions and shorten long records of expunges; return how many rows of work it found.

        One process at a time calls this, now and then.
        """
        return await removal.sweep(self._database, self._bodies)

    # Inside.

    def _forget(self, account: int) -> None:
        self._inboxes.pop(account, None)

    async def _pages(
        self, statement: Statement, mailbox: MailboxId, ranges: Ranges, page: int
    ) -> AsyncIterator[Rows]:
        for first, high in ranges:
            low = first
            while low <= high:
                params = {"mailbox": mailbox, "low": low, "high": high, "most": page}
                rows = await self._database.read(statement, params)
                if rows:
                    yield rows
                if len(rows) < page:
                    break
                low = cast(int, rows[-1][0]) + 1  # the UID, BIGINT

    async def _change(
        self, mailbox: MailboxId, ranges: Ranges, change: Mapping[str, int], unchanged_since: int | None
    ) -> Changed:
        steps = [Step(sql.BUMP_FLAGS, {"mailbox": mailbox})]
        unchanged = NEVER if unchanged_since is None else unchanged_since
        for low, high in ranges:
            params = {"mailbox": mailbox, "low": low, "high": high, "unchanged": unchanged, **change}
            if unchanged_since is not None:
                steps.append(Step(sql.CHANGED_LATER, params))
            steps.append(Step(sql.CHANGE_FLAGS, params))
        steps.append(Step(sql.CHANGED, {"mailbox": mailbox, "low": ranges[0][0], "high": ranges[-1][1]}))
        try:
            bumped, *later, changed = await self._database.commit(Unit(tuple(steps), (append_notice(mailbox),)))
        except Unmet as unmet:
            raise no_for(unmet) from None
        modseq = cast(int, bumped[0][0])  # RETURNING modseq
        modified = [cast(int, row[0]) for rows in later for row in rows]  # CHANGED_LATER selects the UID
        return Changed(modseq, flag_rows(changed), modified)


def no_for(unmet: Unmet) -> NoSuchMailbox | OverQuota:
    """Return what the unmet precondition of an appending or changing unit means."""
    if unmet.statement == sql.KEEP_QUOTA.name:
        return OverQuota("the account is full")
    return NoSuchMailbox("there is no such mailbox")


def appended_of(row: Row) -> Appended:
    """Read the row that the first of `append_steps` returns."""
    mailbox, uidvalidity, uid, modseq = cast(tuple[int, int, int, int], row)  # the columns of TAKE_UID
    return Appended(MailboxId(mailbox), uidvalidity, uid, modseq)
