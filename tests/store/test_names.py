"""Names of mailboxes: what may be one, and making, renaming and deleting them."""

import pytest

from gatepost.store.mailbox import Mailboxes
from gatepost.store.model import (
    INBOX,
    BadName,
    MailboxExists,
    NoSuchMailbox,
    NotAllowed,
)
from gatepost.store.names import check_name, superiors
from tests.store.world import ANN, BOB, NOW, world
from tests.support.databases import OpenDatabase, each_engine
from tests.support.loop import run


@pytest.mark.row("IMAP-12")
@pytest.mark.parametrize(
    "name",
    [
        "../../x", "a/../b", "a/./b", "a\0b", "INBOX/\r\n", "x" * 256, "é" * 128, "/".join("a" * 21), "", "/", "/a",
        "a//b", "a/", "*", "a%b", "#user/ann", "a\x7f", "a\x85", "a\u2028", "\ud800",
    ],
)  # fmt: skip
def test_names_that_no_mailbox_can_have(name: str) -> None:
    with pytest.raises(BadName):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["x" * 255, "é" * 127, "/".join("a" * 20), "&AC8-", "a'; DROP", "_\\%".replace("%", "")]
)
def test_names_at_the_limit_are_kept_as_given(name: str) -> None:
    assert check_name(name) == name


def test_inbox_is_the_same_in_any_case_and_so_is_what_lies_below() -> None:
    assert check_name("iNbOx") == INBOX
    assert check_name("inbox/lists") == "INBOX/lists"
    assert check_name("inboxes") == "inboxes"
    assert check_name("ınbox") == "ınbox"  # a dotless i is not folded


def test_superiors_are_outermost_first() -> None:
    assert superiors("a/b/c") == ("a", "a/b")
    assert superiors("a") == ()


async def names(mailboxes: Mailboxes, account: int = ANN) -> list[str]:
    """Return an account's names."""
    return [each.name for each in await mailboxes.of(account)]


@each_engine
def test_an_account_starts_with_its_mailboxes_subscribed_and_with_special_use(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            found = await here.mailboxes.of(ANN)
            assert [(each.name, each.special) for each in found] == [
                ("Archive", "\\Archive"),
                ("Drafts", "\\Drafts"),
                ("INBOX", ""),
                ("Junk", "\\Junk"),
                ("Sent", "\\Sent"),
                ("Trash", "\\Trash"),
            ]
            assert all(each.subscribed and each.uidnext == 1 for each in found)
            assert (await here.mailboxes.find(ANN, "inbox")).id == await here.mailboxes.inbox(ANN)
            assert await here.mailboxes.inbox(ANN) != await here.mailboxes.inbox(BOB)
            with pytest.raises(NoSuchMailbox):
                await here.mailboxes.inbox(99)

    run(play())


@each_engine
def test_create_makes_what_is_missing_above(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            made = await here.mailboxes.create(ANN, "Friends/Pat/2026", NOW)
            assert made.name == "Friends/Pat/2026"
            await here.mailboxes.create(ANN, "Friends/Sam/", NOW)
            found = await names(here.mailboxes)
            assert [each for each in found if each.startswith("F")] == [
                "Friends", "Friends/Pat", "Friends/Pat/2026", "Friends/Sam",
            ]  # fmt: skip
            with pytest.raises(MailboxExists):
                await here.mailboxes.create(ANN, "Friends/Sam", NOW)
            with pytest.raises(MailboxExists):
                await here.mailboxes.create(ANN, "inbox", NOW)

    run(play())


@each_engine
@pytest.mark.row("STO-01")
def test_quotes_and_wildcards_in_names_have_no_meaning(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            for name in ("O'Brien", 'say "hi"', "a_b", "back\\slash", "'; DROP TABLE mailbox; --", "a:b"):
                await here.mailboxes.create(ANN, name, NOW)
                assert (await here.mailboxes.find(ANN, name)).name == name
            await here.mailboxes.create(ANN, "axb/below", NOW)
            await here.mailboxes.create(ANN, "a_b/below", NOW)
            await here.mailboxes.rename(ANN, "a_b", "moved", NOW)
            assert "axb/below" in await names(here.mailboxes)
            assert "moved/below" in await names(here.mailboxes)
            with pytest.raises(NoSuchMailbox):
                await here.mailboxes.find(ANN, "a\0b")

    run(play())


@each_engine
def test_rename_takes_what_is_below_and_the_subscriptions_along(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            kept = await here.mailboxes.create(ANN, "täg/ä/b", NOW)
            await here.mailboxes.create(ANN, "täg-x", NOW)
            await here.mailboxes.subscribe(ANN, "täg/ä/b")
            await here.mailboxes.rename(ANN, "täg", "new/place", NOW)
            found = await here.mailboxes.find(ANN, "new/place/ä/b")
            assert (found.id, found.uidvalidity, found.subscribed) == (kept.id, kept.uidvalidity, True)
            assert {"new", "new/place", "new/place/ä", "täg-x"} <= set(await names(here.mailboxes))
            assert "täg" not in await names(here.mailboxes)
            assert "täg/ä/b" not in await here.mailboxes.subscriptions(ANN)

    run(play())


@each_engine
def test_rename_refuses_to_hide_or_to_loop(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.mailboxes.create(ANN, "a/" + "x" * 200, NOW)
            with pytest.raises(NotAllowed):
                await here.mailboxes.rename(ANN, "a", "a/b", NOW)
            with pytest.raises(MailboxExists):
                await here.mailboxes.rename(ANN, "a", "Sent", NOW)
            with pytest.raises(NoSuchMailbox):
                await here.mailboxes.rename(ANN, "nothing", "something", NOW)
            with pytest.raises(BadName):  # a name below would be longer than 255 octets
                await here.mailboxes.rename(ANN, "a", "y" * 60, NOW)
            assert "a" in await names(here.mailboxes)

    run(play())


@each_engine
def test_renaming_inbox_moves_its_messages_and_leaves_it_empty(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await here.mailboxes.inbox(ANN)
            await here.add(inbox)
            await here.add(inbox)
            await here.mailboxes.rename(ANN, "INBOX", "Old", NOW)
            old = await here.mailboxes.find(ANN, "Old")
            assert (old.messages, (await here.mailboxes.get(inbox)).messages) == (2, 0)
            assert await here.mailboxes.inbox(ANN) == inbox

    run(play())


@each_engine
def test_delete_releases_the_bodies_and_keeps_what_is_below(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.mailboxes.create(ANN, "a/b", NOW)
            box = await here.mailboxes.find(ANN, "a")
            for _ in range(3):
                await here.add(box.id)
            await here.mailboxes.add_keywords(box.id, ["$Label1"])
            copied = await here.mailboxes.copy(box.id, ((1, 1),), await here.mailboxes.inbox(ANN))
            assert copied is not None
            await here.mailboxes.delete(ANN, "a")
            assert "a/b" in await names(here.mailboxes)
            assert [await here.count(each) for each in ("body", "listing", "flags", "keyword", "expunged")] == [
                1, 1, 1, 0, 0,
            ]  # fmt: skip
            with pytest.raises(NoSuchMailbox):
                await here.mailboxes.get(box.id)
            with pytest.raises(NoSuchMailbox):
                await here.add(box.id)
            with pytest.raises(NotAllowed):
                await here.mailboxes.delete(ANN, "Inbox")

    run(play())


@each_engine
@pytest.mark.row("IMAP-21")
def test_a_mailbox_made_again_in_the_same_second_has_another_uidvalidity(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            seen = set()
            for _ in range(3):
                seen.add((await here.mailboxes.create(ANN, "again", NOW)).uidvalidity)
                await here.mailboxes.delete(ANN, "again")
            assert len(seen) == 3
            assert all(0 < each < 1 << 32 for each in seen)

    run(play())


@each_engine
def test_subscriptions_need_no_mailbox(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            await here.mailboxes.subscribe(ANN, "gone")
            await here.mailboxes.subscribe(ANN, "gone")
            await here.mailboxes.unsubscribe(ANN, "Sent")
            await here.mailboxes.unsubscribe(ANN, "never was")
            found = await here.mailboxes.subscriptions(ANN)
            assert "gone" in found
            assert "Sent" not in found
            assert not (await here.mailboxes.find(ANN, "Sent")).subscribed

    run(play())
