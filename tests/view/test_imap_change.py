"""What changes a mailbox: STORE, EXPUNGE, COPY, MOVE, APPEND."""

import pytest

from gatepost.base.clock import Instant
from gatepost.store.flags import DELETED, DRAFT, FLAGGED, SEEN
from tests.view.world import MAIL, World, responses, scene


def test_store_adds_removes_and_replaces_flags() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL)
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok(r"STORE 1:2 +FLAGS (\Seen \Flagged)") == [
                rb"* 1 FETCH (FLAGS (\Seen \Flagged))",
                rb"* 2 FETCH (FLAGS (\Seen \Flagged))",
            ]
            assert await talk.ok(r"UID STORE 2 -FLAGS \Flagged") == [rb"* 2 FETCH (UID 2 FLAGS (\Seen))"]
            assert await talk.ok(r"STORE 1 FLAGS.SILENT (\Draft)") == []
            assert await talk.ok("NOOP") == []
            assert await here.flags() == {1: DRAFT, 2: SEEN}
            assert await talk.ok("STORE 1 flags ()") == [b"* 1 FETCH (FLAGS ())"]

    scene(play)


@pytest.mark.parametrize(
    "wrong",
    [
        r"1 XFLAGS (\Seen)",
        r"1 FLAGS (\Seen",
        r"1 FLAGS (\*)",
        "1 FLAGS",
        "1 +FLAGS (%)",
        r"1 +FLAGS (\Seen) x",
        r"1 +FLAGS (\Foo)",
    ],
)
def test_what_is_no_store_is_bad(wrong: str) -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no(f"STORE {wrong}")).startswith(b"BAD")

    scene(play)


def test_a_new_keyword_is_announced_to_all() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            said = await one.ok(r"STORE 1 +FLAGS (Later $Forwarded)")
            assert said[0].startswith(b"* FLAGS (")
            assert said[0].endswith(b" Later)")
            assert said[1] == b"* 1 FETCH (FLAGS ($Forwarded Later))"
            said = await two.ok("NOOP")
            assert said[0].endswith(b" Later)")
            assert said[1] == b"* 1 FETCH (UID 1 FLAGS ($Forwarded Later))"
            assert await one.ok("STORE 1 -FLAGS (later unknown)") == [b"* 1 FETCH (FLAGS ($Forwarded))"]

    scene(play)


def test_a_keyword_is_named_even_when_a_body_was_fetched_first() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            await one.ok("STORE 1 +FLAGS.SILENT (Later)")
            await two.ok("FETCH 1 BODY[TEXT]")
            assert await two.ok("FETCH 1 FLAGS") == [rb"* 1 FETCH (FLAGS (\Seen Later))"]

    scene(play)


def test_expunge_tells_the_highest_number_first() -> None:
    async def play(here: World) -> None:
        await here.deliver(*[MAIL] * 5)
        async with here.imap(select="INBOX") as talk:
            await talk.ok(r"STORE 2,3,5 +FLAGS.SILENT (\Deleted)")
            assert await talk.ok("EXPUNGE") == [b"* 5 EXPUNGE", b"* 3 EXPUNGE", b"* 2 EXPUNGE"]
            assert await talk.ok("FETCH 1:* UID") == [b"* 1 FETCH (UID 1)", b"* 2 FETCH (UID 4)"]
            assert await talk.ok("EXPUNGE") == []

    scene(play)


def test_uid_expunge_takes_what_it_names_and_nothing_else() -> None:
    async def play(here: World) -> None:
        await here.deliver(*[MAIL] * 3, flags=DELETED)
        async with here.imap(select="INBOX") as talk:
            await talk.ok(r"STORE 3 -FLAGS.SILENT (\Deleted)")
            for nothing in ("99", "3", "50:60"):
                assert await talk.ok(f"UID EXPUNGE {nothing}") == []
                assert len(await here.mails()) == 3
            assert await talk.ok("UID EXPUNGE 2:*") == [b"* 2 EXPUNGE"]
            assert list(await here.mails()) == [1, 3]

    scene(play)


def test_a_uid_is_never_used_again() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            validity = (await here.mailboxes.find(here.accounts["bob"], "INBOX")).uidvalidity
            for uid in (1, 2, 3):
                assert await talk.append(MAIL) == b"OK [APPENDUID %d %d] Append completed" % (validity, uid)
                assert await talk.ok(r"STORE 1 +FLAGS.SILENT (\Deleted)") == []
                assert await talk.ok("EXPUNGE") == [b"* 1 EXPUNGE"]
            assert b"* OK [UIDNEXT 4] Predicted next UID" in await talk.ok("SELECT INBOX")

    scene(play)


def test_copy_names_old_and_new_uids() -> None:
    async def play(here: World) -> None:
        await here.deliver(*[MAIL] * 4, flags=FLAGGED)
        await here.deliver(MAIL, mailbox="Sent")
        validity = (await here.mailboxes.find(here.accounts["bob"], "Sent")).uidvalidity
        async with here.imap(select="INBOX") as talk:
            assert await talk.no("COPY 1,3:4 Sent") == b"OK [COPYUID %d 1,3:4 2:4] Copy completed" % validity
            assert await here.flags("Sent") == {1: 0, 2: FLAGGED, 3: FLAGGED, 4: FLAGGED}
            assert await talk.no("UID COPY 99 Sent") == b"OK Copy completed, of nothing"
            assert await talk.no("COPY 1 nowhere") == b"NO [TRYCREATE] Mailbox doesn't exist"
            assert (await talk.do("COPY 1 INBOX"))[:-1] == [
                b"* 5 EXISTS",
                b"* 0 RECENT",
            ]

    scene(play)


def test_move_tells_copyuid_before_the_expunges() -> None:
    async def play(here: World) -> None:
        await here.deliver(*[MAIL] * 3)
        validity = (await here.mailboxes.find(here.accounts["bob"], "Archive")).uidvalidity
        async with here.imap(select="INBOX") as talk:
            assert await talk.do("MOVE 1:2 Archive") == [
                b"* OK [COPYUID %d 1:2 1:2] Moved" % validity,
                b"* 2 EXPUNGE",
                b"* 1 EXPUNGE",
                b"OK Move completed",
            ]
            assert await talk.no("UID MOVE 1 Archive") == b"OK Move completed, of nothing"
            assert await talk.no("MOVE 1 nowhere") == b"NO [TRYCREATE] Mailbox doesn't exist"
            assert (await talk.no("MOVE 1 INBOX")).startswith(b"NO [CANNOT]")
            assert await talk.ok("UID MOVE 3 Archive") == [
                b"* OK [COPYUID %d 3 3] Moved" % validity,
                b"* 1 EXPUNGE",
            ]
            assert list(await here.mails("Archive")) == [1, 2, 3]
            assert await here.mails() == {}

    scene(play)


def test_append_takes_flags_and_date() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            await talk.append(MAIL, options=r'(\Seen Later) " 4-Mar-2026 09:04:05 +0100"')
            said = await talk.ok("FETCH 1 (FLAGS INTERNALDATE)")
            assert said == [rb'* 1 FETCH (FLAGS (\Seen Later) INTERNALDATE " 4-Mar-2026 08:04:05 +0000")']
            for wrong in ('"31-Feb-2026 00:00:00 +0000"', '"4-Mar-2026"'):
                assert (await talk.append(MAIL, options=wrong)).startswith(b"BAD")
            assert await talk.append(MAIL, "nowhere") == b"NO [TRYCREATE] Mailbox doesn't exist"

    scene(play)


def test_append_waits_for_its_literal() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert await talk.send(b"a APPEND Drafts (\\Draft) {%d}\r\n" % len(MAIL)) == b"+ OK\r\n"
            assert (await talk.send(MAIL + b"\r\n")).startswith(b"a OK [APPENDUID ")
            assert await here.flags("Drafts") == {1: DRAFT}
            assert await here.mails("Drafts") == {1: MAIL}

    scene(play)


@pytest.mark.row("IMAP-09")
def test_an_append_that_is_too_big_is_refused_before_it_comes() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert await talk.send(b"a APPEND INBOX {1001}\r\n") == b"a NO [TOOBIG] literal too big\r\n"
            assert await talk.send(b"a APPEND INBOX {100000000}\r\n") == b"a NO [TOOBIG] literal too big\r\n"
            assert (await talk.append(b"x" * 998 + b"\r\n")).startswith(b"OK")
            assert await talk.send(b"a APPEND INBOX {1001+}\r\n") == b"* BYE [TOOBIG] literal too big\r\n"

    scene(play, append_max=1000)


@pytest.mark.row("IMAP-09")
def test_an_append_over_quota_stores_nothing() -> None:
    async def play(here: World) -> None:
        async with here.imap("full", select="INBOX") as talk:
            assert (await talk.append(MAIL)).startswith(b"OK [APPENDUID ")
            assert (await talk.append(MAIL)).startswith(b"NO [OVERQUOTA]")
            assert (await talk.no("COPY 1 Sent")).startswith(b"NO [OVERQUOTA]")
            assert await talk.ok("STATUS INBOX (MESSAGES)") == [b"* STATUS INBOX (MESSAGES 1)"]

    scene(play)


@pytest.mark.row("IMAP-09")
@pytest.mark.parametrize("literal", [b"{%d}\r\n", b"{%d+}\r\n"])
def test_an_append_that_breaks_off_is_never_stored(literal: bytes) -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            await talk.send(b"a APPEND INBOX " + literal % len(MAIL))
            await talk.send(MAIL[:-1])
        async with here.imap() as talk:
            await talk.send(b"a APPEND INBOX " + literal % len(MAIL) + MAIL)
        assert await here.mails() == {}

    scene(play)


@pytest.mark.row("IMAP-10")
def test_line_ends_of_an_append_become_crlf_and_all_else_stays() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            raw = b"Subject: \xe4\r\n\r\n\xff\x01 one\ntwo\rthree\r\n.\r\n"
            stored = b"Subject: \xe4\r\n\r\n\xff\x01 one\r\ntwo\r\nthree\r\n.\r\n"
            await talk.append(raw)
            assert await here.mails() == {1: stored}
            assert await talk.ok("FETCH 1 (RFC822.SIZE BODY.PEEK[])") == [
                b"* 1 FETCH (RFC822.SIZE %d BODY[] {%d}\r\n%b)" % (len(stored), len(stored), stored)
            ]

    scene(play)


@pytest.mark.row("IMAP-10")
def test_a_message_with_nul_is_refused() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert (await talk.append(b"Subject: a\0b\r\n\r\n")).startswith(b"NO [CANNOT]")
            assert (await talk.no(b"APPEND INBOX ~{3+}\r\na\0b")).startswith(b"NO [UNKNOWN-CTE]")
            assert (await talk.append(b"")).startswith(b"NO ")
            assert await here.mails() == {}

    scene(play)


def test_commands_that_come_together_are_answered_in_order() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            append = b"b APPEND INBOX {%d+}\r\n%b\r\n" % (len(MAIL), MAIL)
            said = responses(await talk.send(b"a SELECT INBOX\r\n" + append + b"c FETCH 1 UID\r\nd CLOSE\r\n"))
            assert [each[:4] for each in said if each[:1] in b"abcd"] == [b"a OK", b"b OK", b"c OK", b"d OK"]
            assert b"* 1 FETCH (UID 1)" in said

    scene(play)


def test_a_message_appended_to_the_selected_mailbox_is_told_at_once() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            said = responses(await talk.send(b"a APPEND INBOX {%d+}\r\n%b\r\n" % (len(MAIL), MAIL)))
            assert said[:2] == [b"* 1 EXISTS", b"* 0 RECENT"]
            assert said[2].startswith(b"a OK [APPENDUID ")
            assert len(said) == 3

    scene(play)


def test_an_appended_date_before_1970_is_kept() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            await talk.append(MAIL, options='"31-Dec-1969 23:59:59 +0000"')
            assert b"31-Dec-1969 23:59:59 +0000" in (await talk.ok("FETCH 1 INTERNALDATE"))[0]
            box = await here.box()
            rows = [row async for page in here.mailboxes.listing(box, ((1, 1),)) for row in page]
            assert rows[0][4] == Instant(-1_000_000)

    scene(play)
