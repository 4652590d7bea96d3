"""IMAP's mailboxes: SELECT, CREATE, DELETE, RENAME, LIST, LSUB, STATUS, and names that attack."""

import time
from dataclasses import replace

import pytest

from gatepost.store.flags import SEEN
from gatepost.store.model import Mailbox
from tests.view.world import Imap, World, scene

SYSTEM = rb"\Seen \Answered \Flagged \Deleted \Draft $Forwarded $MDNSent $Junk $NotJunk $Phishing"


def test_select_tells_what_a_client_needs() -> None:
    async def play(here: World) -> None:
        await here.deliver(flags=SEEN)
        await here.deliver()
        validity = (await here.mailboxes.find(here.accounts["bob"], "INBOX")).uidvalidity
        async with here.imap() as talk:
            assert await talk.do("SELECT inbox") == [
                b"* FLAGS (%b)" % SYSTEM,
                rb"* OK [PERMANENTFLAGS (%b \*)] Flags that are kept" % SYSTEM,
                b"* 2 EXISTS",
                b"* 0 RECENT",
                b"* OK [UNSEEN 2] First unseen",
                b"* OK [UIDVALIDITY %d] UIDs valid" % validity,
                b"* OK [UIDNEXT 3] Predicted next UID",
                b"* OK [HIGHESTMODSEQ 3] Highest",
                b"OK [READ-WRITE] Select completed",
            ]
            said = await talk.do("EXAMINE INBOX")
            assert b"* OK [PERMANENTFLAGS ()] Flags that are kept" in said
            assert said[-1] == b"OK [READ-ONLY] Examine completed"

    scene(play)


def test_a_mailbox_that_cannot_be_selected_leaves_none_selected() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no("SELECT nowhere")).startswith(b"NO [NONEXISTENT]")
            assert await talk.no("CHECK") == b"BAD Not now"

    scene(play)


def test_close_expunges_and_unselect_does_not() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            for command, left in (("UNSELECT", 1), ("CLOSE", 0)):
                await here.deliver()
                await talk.ok("SELECT INBOX")
                await talk.ok(r"STORE 1:* +FLAGS.SILENT (\Deleted)")
                assert await talk.ok(command) == []
                assert len(await here.mails()) == left
                assert await talk.no("CHECK") == b"BAD Not now"
                await talk.ok("SELECT INBOX")
                await talk.ok("CLOSE")

    scene(play)


def test_close_of_a_mailbox_that_is_only_examined_expunges_nothing() -> None:
    async def play(here: World) -> None:
        await here.deliver(flags=8)
        async with here.imap() as talk:
            await talk.ok("EXAMINE INBOX")
            for command in ("EXPUNGE", "UID EXPUNGE 1", r"STORE 1 FLAGS (\Seen)", "MOVE 1 Trash"):
                assert (await talk.no(command)).startswith(b"NO [READ-ONLY]")
            await talk.ok("CLOSE")
            assert len(await here.mails()) == 1

    scene(play)


def test_list_shows_special_uses_and_children() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            everything = [
                rb'* LIST (\HasNoChildren \Archive) "/" Archive',
                rb'* LIST (\HasNoChildren \Drafts) "/" Drafts',
                rb'* LIST (\HasNoChildren) "/" INBOX',
                rb'* LIST (\HasNoChildren \Junk) "/" Junk',
                rb'* LIST (\HasNoChildren \Sent) "/" Sent',
                rb'* LIST (\HasNoChildren \Trash) "/" Trash',
            ]
            assert await talk.ok('LIST "" "*"') == everything
            assert await talk.ok('LIST "" "*" RETURN (SPECIAL-USE)') == everything
            special = [each for each in everything if b"INBOX" not in each]
            assert await talk.ok('list (special-use) "" "*"') == special
            assert await talk.ok('LIST "" ""') == [rb'* LIST (\Noselect) "/" ""']

    scene(play)


async def listed(talk: Imap, command: str) -> list[str]:
    """Return the names that a LIST or LSUB shows, with `!` where they cannot be selected."""
    found = await talk.ok(command)
    return [("!" if b"\\Noselect" in line else "") + line.split(b" ")[-1].decode() for line in found]


@pytest.mark.parametrize(
    ("reference", "pattern", "expected"),
    [
        ('""', "a*", ["a", "a/b", "a/b/c"]),
        ('""', "a/%", ["a/b"]),
        ('""', "%/%", ["!lost/x", "a/b", "lost/y"]),
        ('""', "l%", ["!lost"]),
        ('""', "lost*", ["lost/x/y", "lost/y"]),
        ('""', "*c", ["Archive/c", "a/b/c"]),
        ("a/", "%", ["a/b"]),
        ('""', "inbox", ["INBOX"]),
        ('""', "InBox*", ["INBOX"]),
        ('""', "Inboxes", []),
        ('""', "a/b", ["a/b"]),
        ('""', "A/B", []),
    ],
)
def test_wildcards_of_list(reference: str, pattern: str, expected: list[str]) -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            for name in ("a/b/c", "Archive/c", "lost/x/y", "lost/y"):
                await talk.ok(f"CREATE {name}")
            await talk.ok("DELETE lost")
            await talk.ok("DELETE lost/x")
            found = await listed(talk, f"LIST {reference} {pattern}")
            if pattern == "%/%":
                found.remove("Archive/c")
            assert sorted(found) == sorted(expected)

    scene(play)


def test_lsub_shows_subscriptions_and_the_levels_above_them() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            for name in await listed(talk, 'LSUB "" "*"'):
                await talk.ok(f"UNSUBSCRIBE {name}")
            await talk.ok("SUBSCRIBE news/comp/mail")
            await talk.ok("SUBSCRIBE INBOX")
            assert await listed(talk, 'LSUB "" "*"') == ["INBOX", "news/comp/mail"]
            assert await listed(talk, 'LSUB "" "%"') == ["INBOX", "!news"]
            await talk.ok("UNSUBSCRIBE news/comp/mail")
            assert await listed(talk, 'LSUB "" "*"') == ["INBOX"]

    scene(play)


def test_create_rename_and_delete() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            await talk.ok("CREATE work/2026/")
            assert (await talk.no("CREATE work")).startswith(b"NO [ALREADYEXISTS]")
            await talk.ok("RENAME work job")
            assert await listed(talk, 'LIST "" "*2026"') == ["job/2026"]
            assert (await talk.no("RENAME job Sent")).startswith(b"NO [ALREADYEXISTS]")
            assert (await talk.no("RENAME nowhere x")).startswith(b"NO [NONEXISTENT]")
            await talk.ok("DELETE job/2026")
            assert (await talk.no("DELETE job/2026")).startswith(b"NO [NONEXISTENT]")

    scene(play)


def test_inbox_is_not_deleted_and_stays_selected() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            for name in ("inbox", "INBOX"):
                assert (await talk.no(f"DELETE {name}")).startswith(b"NO [CANNOT]")
            await talk.ok("CHECK")

    scene(play)


def test_renaming_inbox_moves_its_messages() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok("RENAME INBOX old") == [b"* 1 EXPUNGE"]
            assert len(await here.mails("old")) == 1
            assert await here.mails() == {}

    scene(play)


def test_deleting_the_selected_mailbox_leaves_none_selected() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            await talk.ok("CREATE a")
            await talk.ok("SELECT a")
            await talk.ok("RENAME a b")
            assert await talk.ok("DELETE b") == []
            assert await talk.no("CHECK") == b"BAD Not now"

    scene(play)


def test_status_counts() -> None:
    async def play(here: World) -> None:
        await here.deliver(flags=SEEN)
        await here.deliver()
        box = await here.mailboxes.find(here.accounts["bob"], "INBOX")
        async with here.imap() as talk:
            items = "MESSAGES RECENT UIDNEXT UIDVALIDITY UNSEEN APPENDLIMIT"
            assert await talk.ok(f"STATUS inbox ({items.lower()})") == [
                b"* STATUS INBOX (MESSAGES 2 RECENT 0 UIDNEXT 3 UIDVALIDITY %d UNSEEN 1 APPENDLIMIT 52428800)"
                % box.uidvalidity
            ]
            assert (await talk.no("STATUS nowhere (MESSAGES)")).startswith(b"NO [NONEXISTENT]")
            assert (await talk.no("STATUS INBOX (XYZZY)")).startswith(b"BAD")
            assert (await talk.no("STATUS INBOX ()")).startswith(b"BAD")

    scene(play)


def test_names_beyond_ascii_are_modified_utf_7() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            await talk.ok('CREATE "Entw&APw-rfe"')
            await talk.ok('CREATE "&ZeVnLIqe- &- more"')
            assert (await here.mailboxes.find(here.accounts["bob"], "日本語 & more")).name == "日本語 & more"
            assert (await talk.no('LIST "" "&ZeV*"')).startswith(b"NO [CANNOT]")
            assert await talk.ok('LIST "" "*more"') == [rb'* LIST (\HasNoChildren) "/" "&ZeVnLIqe- &- more"']
            assert await talk.ok('LIST "" "Entw&APw-%"') == [rb'* LIST (\HasNoChildren) "/" Entw&APw-rfe']

    scene(play)


@pytest.mark.row("IMAP-12")
@pytest.mark.parametrize(
    "name",
    [
        b"../../x",
        b"a/../b",
        b"a\0b",
        b"&AC8-",
        b"&AC4ALg-/x",
        b"&-&invalid",
        b"&AGE-",
        b"INBOX/\r\n",
        b"x" * 300,
        b"/".join([b"d"] * 100),
        b"a//b",
        b"/a",
        b"a*",
        b"a%",
        b"&2AA-",
        b"\xff",
        b"",
    ],
)
def test_a_name_that_cannot_be_is_refused(name: bytes) -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            before = await talk.ok('LIST "" "*"')
            literal = b"{%d+}\r\n%b" % (len(name), name)
            for command in (b"CREATE %b" % literal, b"RENAME Sent %b" % literal):
                assert (await talk.no(command)).startswith(b"NO [CANNOT]")
            for command in (b"SELECT", b"DELETE", b"EXAMINE"):
                assert (await talk.no(b"%b %b" % (command, literal))).startswith(b"NO [")
            assert await talk.ok('LIST "" "*"') == before

    scene(play)


@pytest.mark.row("IMAP-13")
def test_many_wildcards_over_many_mailboxes_are_quick() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            box = await here.mailboxes.find(here.accounts["bob"], "INBOX")
            boxes = tuple(replace(box, name=f"m/{n}/x") for n in range(10_000))

            async def of(account: int) -> tuple[Mailbox, ...]:
                return boxes

            here.mailboxes.of = of  # type: ignore[method-assign]  # making 10,000 takes too long here
            begun = time.perf_counter()
            assert len(await talk.ok('LIST "" "%/%/%*%*%*%*%*"')) == 10_000
            assert await talk.ok('LIST "" "%/%/%/%/*%*%*%*%*"') == []
            assert len(await talk.ok(f'LIST "" "{"*" * 1000}"')) == 10_000
            assert await talk.ok(f'LIST "" "{"*a" * 1000}"') == []
            assert len(await talk.ok(f'LIST "" "{"%" * 60_000}/*"')) == 10_000
            assert time.perf_counter() - begun < 5.0  # one after the other, on a machine that does other things

    scene(play)


@pytest.mark.row("IMAP-23")
def test_names_that_are_no_atoms_come_back_quoted() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            for name, shown in (
                (rb'"a \"b\" \\c"', rb'"a \"b\" \\c"'),
                (b'"NIL"', b'"NIL"'),
                (b'"(x) {5}"', b'"(x) {5}"'),
            ):
                await talk.ok(b"CREATE " + name)
                assert await talk.ok(b'LIST "" ' + name) == [rb'* LIST (\HasNoChildren) "/" %b' % shown]
                assert await talk.ok(b"STATUS %b (MESSAGES)" % name) == [b"* STATUS %b (MESSAGES 0)" % shown]

    scene(play)
