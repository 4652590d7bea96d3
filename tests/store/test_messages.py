"""Appending, reading, flags, copying, moving and expunging."""

import asyncio

import pytest

from gatepost.accounts.model import Quota
from gatepost.base.ids import MailId
from gatepost.db.unit import Unit
from gatepost.store import removal
from gatepost.store.describe import describe
from gatepost.store.flags import ANSWERED, DELETED, FLAGGED, SEEN, BadKeyword, flag_names
from gatepost.store.message import append_steps
from gatepost.store.model import MailboxId, NoSuchMailbox, NoSuchMessage, OverQuota, TooMany, Wanted
from gatepost.store.verbs import drop_account_steps, renew_uidvalidity
from tests.store.world import ANN, BOB, MAIL, NOW, World, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run

ALL = ((1, 1 << 32),)


@each_engine
@pytest.mark.row("IMAP-10")
def test_what_was_appended_is_read_back_octet_by_octet(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            odd = b"Subject: \xff\r\n\r\n\0 8-bit \xfe and a bare \n and \r end"
            first = await here.add(inbox, SEEN)
            second = await here.add(inbox, 0, odd)
            assert (first.uid, second.uid) == (1, 2)
            assert second.modseq > first.modseq
            assert await here.mailboxes.body(inbox, 1) == MAIL
            assert await here.mailboxes.body(inbox, 2) == odd
            state = await here.mailboxes.get(inbox)
            assert (state.messages, state.octets, state.uidnext) == (2, len(MAIL) + len(odd), 3)
            assert state.uidvalidity == first.uidvalidity
            with pytest.raises(NoSuchMessage):
                await here.mailboxes.body(inbox, 3)

    run(play())


@each_engine
def test_listings_have_the_columns_that_are_wanted_and_come_in_pages(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            for _ in range(7):
                await here.add(inbox)
            pages = [page async for page in here.mailboxes.listing(inbox, ((1, 3), (5, 99)), page=2)]
            assert [[row[0] for row in page] for page in pages] == [[1, 2], [3], [5, 6], [7]]
            assert len(pages[0][0]) == 8
            wanted = Wanted.ENVELOPE | Wanted.BODY_STRUCTURE
            [[row]] = [page async for page in here.mailboxes.listing(inbox, ((1, 1),), wanted)]
            told = describe(MAIL, NOW)
            assert row[8:] == (told.envelope, told.body_structure)
            assert row[3] == len(MAIL)
            assert row[5:8] == (told.sent_at, 60, told.header_end)
            [keys] = await here.mailboxes.sort_keys(inbox, ((7, 7),))
            assert keys[5:] == (b"PEAS", b"ANN", b"JOE", b"")
            assert len(await here.mailboxes.thread_keys(inbox, ALL)) == 7

    run(play())


@each_engine
def test_one_unit_delivers_to_several_mailboxes_or_to_none(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            boxes = [await here.mailboxes.inbox(ANN), await here.mailboxes.inbox(BOB)]
            listing = describe(MAIL, NOW)
            body = here.minter.mint(NOW)
            steps = [*append_steps(boxes[0], body, listing, 0, NOW, body)]
            steps += append_steps(boxes[1], body, listing, 0, NOW, body, Quota(octets=10))
            with pytest.raises(Exception, match=r"store\.keep_quota"):
                await here.database.commit(Unit(tuple(steps)))
            assert await here.count("listing") == 0
            assert (await here.mailboxes.get(boxes[0])).uidnext == 1

    run(play())


@each_engine
@pytest.mark.row("IMAP-09")
def test_quota_counts_all_mailboxes_of_the_account(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox, sent = await here.mailboxes.inbox(ANN), (await here.mailboxes.find(ANN, "Sent")).id
            room = Quota(octets=2 * len(MAIL))
            await here.mailboxes.append(inbox, MAIL, 0, NOW, NOW, room)
            await here.mailboxes.append(sent, MAIL, 0, NOW, NOW, room)
            for quota in (room, Quota(messages=2)):
                with pytest.raises(OverQuota):
                    await here.mailboxes.append(inbox, MAIL, 0, NOW, NOW, quota)
                with pytest.raises(OverQuota):
                    await here.mailboxes.copy(inbox, ALL, sent, quota)
            assert await here.mailboxes.usage(ANN) == (2 * len(MAIL), 2)
            assert await here.mailboxes.usage(BOB) == (0, 0)
            assert await here.count("body") == 2
            assert await here.mailboxes.append(inbox, MAIL, 0, NOW, NOW, Quota(messages=3))

    run(play())


@each_engine
def test_flags_are_added_removed_and_replaced(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            for _ in range(4):
                await here.add(inbox, SEEN)
            added = await here.mailboxes.change_flags(inbox, ((1, 2), (4, 9)), add=FLAGGED)
            assert [(uid, flags) for uid, flags, _ in added.rows] == [(uid, SEEN | FLAGGED) for uid in (1, 2, 4)]
            removed = await here.mailboxes.change_flags(inbox, ALL, remove=SEEN)
            assert [flags for _, flags, _ in removed.rows] == [FLAGGED, FLAGGED, 0, FLAGGED]
            replaced = await here.mailboxes.change_flags(inbox, ((2, 3),), replace=ANSWERED)
            assert [flags for _, flags, _ in replaced.rows] == [ANSWERED, ANSWERED]
            again = await here.mailboxes.change_flags(inbox, ((2, 3),), replace=ANSWERED)
            assert again.rows == []
            assert [row[1] for row in await here.mailboxes.rows(inbox)] == [FLAGGED, ANSWERED, ANSWERED, FLAGGED]
            status = await here.mailboxes.status(inbox)
            assert (status.unseen, status.deleted) == (4, 0)

    run(play())


@each_engine
@pytest.mark.row("IMAP-20")
def test_of_two_conditional_stores_one_is_told_modified(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            for _ in range(2):
                await here.add(inbox)
            seen = (await here.mailboxes.get(inbox)).modseq
            both = await asyncio.gather(
                *(
                    here.mailboxes.change_flags(inbox, ((1, 1),), add=flag, unchanged_since=seen)
                    for flag in (SEEN, FLAGGED)
                )
            )
            assert sorted(each.modified for each in both) == [[], [1]]
            assert sorted(len(each.rows) for each in both) == [0, 1]
            later = await here.mailboxes.change_flags(inbox, ALL, add=ANSWERED, unchanged_since=seen)
            assert later.modified == [1]
            assert [uid for uid, _, _ in later.rows] == [2]
            assert later.modseq > max(each.modseq for each in both) - 1 > seen

    run(play())


@each_engine
@pytest.mark.row("STO-01")
def test_keywords_have_a_bit_of_their_own_in_each_mailbox(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox, sent = await here.mailboxes.inbox(ANN), (await here.mailboxes.find(ANN, "Sent")).id
            await here.mailboxes.add_keywords(sent, ["other"])
            keywords = await here.mailboxes.add_keywords(inbox, ["Work", "it's", "WORK"])
            assert keywords == {1 << 16: "Work", 1 << 17: "it's"}
            await here.add(inbox, SEEN | 1 << 16)
            await here.add(inbox, 1 << 17)
            await here.add(inbox)
            await here.mailboxes.copy(inbox, ALL, sent)
            names = await here.mailboxes.keywords(sent)
            flags = [flag_names(row[1], names) for row in await here.mailboxes.rows(sent)]
            assert flags == [("\\Seen", "Work"), ("it's",), ()]
            for bad in ("", "a b", "(", "\\Foo", "é", "a\0", "x" * 101):
                with pytest.raises(BadKeyword):
                    await here.mailboxes.add_keywords(inbox, [bad])
            await here.mailboxes.add_keywords(inbox, [f"k{n}" for n in range(44)])
            with pytest.raises(TooMany):
                await here.mailboxes.add_keywords(inbox, ["one-too-many"])
            assert max(await here.mailboxes.keywords(inbox)) == 1 << 61
            await here.mailboxes.change_flags(inbox, ((3, 3),), add=1 << 61)
            assert (await here.mailboxes.rows(inbox))[2][1] == 1 << 61

    run(play())


@each_engine
def test_copies_keep_order_flags_and_share_the_body(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox, archive = await here.mailboxes.inbox(ANN), (await here.mailboxes.find(ANN, "Archive")).id
            for n in range(6):
                await here.add(inbox, n)
            await here.mailboxes.change_flags(inbox, ((4, 4),), add=DELETED)
            await here.mailboxes.expunge(inbox)
            await here.add(archive)
            copied = await here.mailboxes.copy(inbox, ((1, 2), (4, 5)), archive)
            assert copied is not None
            assert copied.uids == ((1, 2), (2, 3), (5, 4))
            assert [row[:2] for row in await here.mailboxes.rows(archive)] == [(1, 0), (2, 0), (3, 1), (4, 4)]
            assert await here.mailboxes.copy(inbox, ((4, 4),), archive) is None
            assert await here.count("body") == 6
            await here.mailboxes.expunge(inbox, whatever_flags=True)
            assert await here.mailboxes.body(archive, 4) == MAIL
            assert (await here.mailboxes.get(archive)).octets == 4 * len(MAIL)
            assert await here.mailboxes.usage(ANN) == (4 * len(MAIL), 4)
            await here.mailboxes.expunge(archive, whatever_flags=True)
            assert await here.count("body") == 0
            assert await here.count("body_use") == 0

    run(play())


@each_engine
def test_a_mailbox_copied_into_itself_ends(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            for _ in range(3):
                await here.add(inbox)
            copied = await here.mailboxes.copy(inbox, ((1, 1), (3, 1 << 32)), inbox)
            assert copied is not None
            assert copied.uids == ((1, 4), (3, 5))
            moved = await here.mailboxes.move(inbox, ALL, inbox)
            assert moved is not None
            assert moved.uids == tuple((n, n + 5) for n in range(1, 6))
            assert await here.uids(inbox) == [6, 7, 8, 9, 10]
            assert (await here.mailboxes.get(inbox)).messages == 5

    run(play())


@each_engine
def test_a_move_is_told_as_expunge_here_and_as_new_there(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox, trash = await here.mailboxes.inbox(ANN), (await here.mailboxes.find(ANN, "Trash")).id
            for _ in range(4):
                await here.add(inbox)
            before, there = await here.mailboxes.get(inbox), await here.mailboxes.get(trash)
            moved = await here.mailboxes.move(inbox, ((2, 3),), trash)
            assert moved is not None
            assert moved.uids == ((2, 1), (3, 2))
            news = await here.mailboxes.news(inbox, before.modseq, before.uidnext)
            assert (news.rows, news.expunged, news.mailbox.messages) == ([], [2, 3], 2)
            arrived = await here.mailboxes.news(trash, there.modseq, there.uidnext)
            assert [uid for uid, _, _ in arrived.rows] == [1, 2]
            assert await here.count("body") == 4
            with pytest.raises(NoSuchMailbox):
                await here.mailboxes.move(inbox, ((1, 1),), MailboxId(12345))
            assert await here.uids(inbox) == [1, 4]

    run(play())


@each_engine
def test_expunge_takes_deleted_messages_of_the_ranges_alone(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            for n in range(6):
                await here.add(inbox, DELETED if n % 2 else 0)
            removed = await here.mailboxes.expunge(inbox, ((1, 4),))
            assert removed.uids == [2, 4]
            assert await here.uids(inbox) == [1, 3, 5, 6]
            rest = await here.mailboxes.expunge(inbox)
            assert rest.uids == [6]
            assert rest.modseq > removed.modseq
            assert await here.mailboxes.expunged_since(inbox, removed.modseq) == [6]
            assert await here.mailboxes.expunged_since(inbox, 0) == [2, 4, 6]
            assert (await here.add(inbox)).uid == 7
            assert await here.count("body") == 4

    run(play())


@each_engine
def test_news_name_what_changed_and_nothing_else(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            heard: list[int] = []
            here.database.listen("mailbox", heard.append)
            for _ in range(3):
                await here.add(inbox)
            start = await here.mailboxes.get(inbox)
            nothing = await here.mailboxes.news(inbox, start.modseq, start.uidnext)
            assert (nothing.rows, nothing.expunged) == ([], [])
            await here.add(inbox)
            await here.mailboxes.change_flags(inbox, ((2, 2),), add=SEEN)
            news = await here.mailboxes.news(inbox, start.modseq, start.uidnext)
            assert [row[:2] for row in news.rows] == [(2, SEEN), (4, 0)]
            assert news.complete
            assert news.mailbox.modseq == max(row[2] for row in news.rows)
            while len(heard) < 5:  # PostgreSQL sends news behind the commit
                await asyncio.sleep(0.01)
            assert set(heard) == {inbox}

    run(play())


@each_engine
@pytest.mark.row("IMAP-21")
def test_after_a_restore_uidvalidity_can_be_renewed_everywhere(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            before = {each.id: each.uidvalidity for each in await here.mailboxes.of(ANN)}
            assert await renew_uidvalidity(here.database, NOW) == 2
            after = {each.id: each.uidvalidity for each in await here.mailboxes.of(ANN)}
            assert all(after[each] > before[each] for each in before)

    run(play())


@each_engine
def test_what_a_deleted_account_leaves_is_swept(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            for account in (ANN, BOB):
                await here.add(await here.mailboxes.inbox(account))
            await here.database.commit(Unit(drop_account_steps(ANN)))
            assert await here.mailboxes.of(ANN) == ()
            assert await here.mailboxes.sweep() == 6
            assert await here.mailboxes.sweep() == 0
            assert [await here.count(each) for each in ("mailbox", "body", "listing")] == [6, 1, 1]

    run(play())


@each_engine
def test_long_records_of_expunges_lose_their_beginning_and_say_so(
    open_db: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "RECORDS_MAX", 4)

    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            states = []
            for _ in range(6):
                await here.add(inbox, DELETED)
                states.append(await here.mailboxes.get(inbox))
                await here.mailboxes.expunge(inbox)
            assert await here.mailboxes.sweep() == 1
            old, new = states[0], states[-2]
            assert not (await here.mailboxes.news(inbox, old.modseq, old.uidnext)).complete
            news = await here.mailboxes.news(inbox, new.modseq, new.uidnext)
            assert (news.complete, news.expunged) == (True, [5, 6])
            assert await here.count("expunged") == 2

    run(play())


@each_engine
def test_deliveries_at_the_same_time_get_uids_without_gap_or_repeat(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            done = await asyncio.gather(*(here.add(inbox) for _ in range(20)))
            assert sorted(each.uid for each in done) == list(range(1, 21))
            assert len({each.modseq for each in done}) == 20

    run(play())


@each_engine
def test_flags_and_expunges_at_the_same_time_lose_no_body(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox, trash = await here.mailboxes.inbox(ANN), (await here.mailboxes.find(ANN, "Trash")).id
            for _ in range(12):
                await here.add(inbox, DELETED)
            await asyncio.gather(
                here.mailboxes.expunge(inbox, ((1, 6),)),
                here.mailboxes.move(inbox, ((4, 9),), trash),
                here.mailboxes.copy(inbox, ((5, 12),), trash),
                here.mailboxes.change_flags(inbox, ((11, 12),), remove=DELETED),
                here.mailboxes.expunge(inbox, ((10, 12),)),
            )
            await _same_everywhere(here)

    run(play())


async def _same_everywhere(here: World) -> None:
    """Compare counters with rows, and every listed body with what can be read."""
    for mailbox in await here.mailboxes.of(ANN):
        rows = [row async for page in here.mailboxes.listing(mailbox.id, ALL) for row in page]
        assert [row[0] for row in rows] == await here.uids(mailbox.id)
        assert mailbox.messages == len(rows)
        for row in rows:
            assert await here.mailboxes.content(MailId(int(str(row[1])))) == MAIL
    used = await here.count("(SELECT DISTINCT body FROM listing) AS b")
    assert used == await here.count("body") == await here.count("body_use")
