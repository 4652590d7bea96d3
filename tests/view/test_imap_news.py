"""Two sessions on one mailbox: who hears what, and when; IDLE."""

import asyncio
from itertools import pairwise

import pytest

from gatepost.store.flags import SEEN
from tests.view.world import MAIL, World, responses, scene


def test_another_session_hears_of_new_changed_and_expunged_messages() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL)
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            await one.ok(r"STORE 1 +FLAGS (\Deleted)")
            await one.append(MAIL)
            assert await two.ok("NOOP") == [
                b"* 3 EXISTS",
                b"* 0 RECENT",
                rb"* 1 FETCH (UID 1 FLAGS (\Deleted))",
            ]
            await one.ok("EXPUNGE")
            assert await two.ok("CHECK") == [b"* 1 EXPUNGE"]
            assert await two.ok("NOOP") == []
            assert await two.ok("FETCH 1:* UID") == [b"* 1 FETCH (UID 2)", b"* 2 FETCH (UID 3)"]

    scene(play)


def test_a_delivery_is_told_between_commands() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            await here.deliver()
            assert await talk.ok("STATUS Sent (MESSAGES)") == [
                b"* STATUS Sent (MESSAGES 0)",
                b"* 1 EXISTS",
                b"* 0 RECENT",
            ]

    scene(play)


@pytest.mark.parametrize(
    "command", ["FETCH 1 FLAGS", "FETCH 1 (RFC822.SIZE)", r"STORE 1 +FLAGS (\Seen)", "SEARCH ALL"]
)
def test_no_message_vanishes_during_fetch_store_and_search(command: str) -> None:
    async def play(here: World) -> None:
        await here.deliver(*[MAIL] * 3)
        async with here.imap(select="INBOX") as talk:
            await here.mailboxes.expunge(await here.box(), ((2, 2),), whatever_flags=True)
            said = await talk.ok(command)
            assert not any(b"EXPUNGE" in each for each in said)
            said = await talk.do("FETCH 1:3 (RFC822.SIZE)")
            assert [each[:9] for each in said[:-1]] == [b"* 1 FETCH", b"* 3 FETCH"]
            assert said[-1].startswith(b"OK [EXPUNGEISSUED]")
            assert await talk.ok("FETCH 3 UID") == [b"* 3 FETCH (UID 3)"]
            assert await talk.ok("UID FETCH 3 FLAGS") == [b"* 3 FETCH (UID 3 FLAGS ())", b"* 2 EXPUNGE"]
            assert await talk.ok("FETCH 2 UID") == [b"* 2 FETCH (UID 3)"]

    scene(play)


def test_a_message_that_came_and_went_is_never_heard_of() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            (uid,) = await here.deliver()
            await here.mailboxes.expunge(await here.box(), ((uid, uid),), whatever_flags=True)
            assert await talk.ok("NOOP") == []
            await here.deliver()
            assert await talk.ok("NOOP") == [b"* 1 EXISTS", b"* 0 RECENT"]

    scene(play)


@pytest.mark.parametrize(
    "command", ["EXPUNGE", "UID EXPUNGE 1", r"STORE 2 FLAGS.SILENT (\Draft)", "FETCH 2 BODY[]"]
)
def test_what_a_session_does_itself_hides_nothing_that_another_did(command: str) -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL)
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            for flag in (rb"\Flagged", rb"\Answered"):
                await two.ok(b"STORE 1 FLAGS.SILENT (%b)" % flag)
                told = await one.ok(command) + await one.ok("NOOP")
                assert b"* 1 FETCH (UID 1 FLAGS (%b))" % flag in told

    scene(play)


def test_a_flag_that_both_set_is_told_to_both() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            await one.ok(r"STORE 1 +FLAGS (\Seen)")
            assert (await two.ok(r"STORE 1 +FLAGS (\Seen)"))[-1].endswith(rb"FLAGS (\Seen))")
            assert await two.ok("FETCH 1 FLAGS") == [rb"* 1 FETCH (FLAGS (\Seen))"]

    scene(play)


@pytest.mark.row("IMAP-20")
def test_two_sessions_that_store_at_once_lose_no_flag() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        box = await here.box()
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            seen = [(await here.mailboxes.get(box)).modseq]
            for turn in range(10):
                sign = "-" if turn % 2 else "+"
                await asyncio.gather(
                    one.ok(rf"STORE 1 {sign}FLAGS.SILENT (\Flagged)"),
                    two.ok(rf"STORE 1 {sign}FLAGS.SILENT (\Answered)"),
                )
                seen.append((await here.mailboxes.get(box)).modseq)
                assert await here.flags() == {1: 0 if turn % 2 else 6}
            assert all(later >= earlier + 2 for earlier, later in pairwise(seen))
            assert await one.ok("FETCH 1 FLAGS") == await two.ok("FETCH 1 FLAGS") == [b"* 1 FETCH (FLAGS ())"]

    scene(play)


def test_a_mailbox_deleted_by_another_session_ends_this_one() -> None:
    async def play(here: World) -> None:
        async with here.imap() as one, here.imap() as two:
            await one.ok("CREATE x")
            await two.ok("SELECT x")
            await one.ok("DELETE x")
            assert b"* BYE The selected mailbox was deleted\r\n" in await two.say("a NOOP")
            assert two.wire.closed

    scene(play)


def test_what_happens_while_a_mailbox_is_selected_is_told() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap() as talk:
            real = here.mailboxes.rows

            async def rows(*args: object, **kwargs: object) -> list[tuple[int, int, int]]:
                here.mailboxes.rows = real  # type: ignore[method-assign]  # the race happens once
                found = await real(*args, **kwargs)  # type: ignore[arg-type]  # as it was called
                await here.deliver()
                return found

            here.mailboxes.rows = rows  # type: ignore[method-assign]  # a delivery comes at the worst moment
            said = await talk.ok("SELECT INBOX")
            assert b"* 1 EXISTS" in said
            assert b"* 2 EXISTS" in said + await talk.ok("CAPABILITY")

    scene(play)


def test_idle_tells_news_as_they_come_until_done() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as idler, here.imap(select="INBOX") as other:
            assert await idler.say("i IDLE") == b"+ idling\r\n"
            await here.deliver()
            assert await idler.until(b"RECENT\r\n") == b"* 2 EXISTS\r\n* 0 RECENT\r\n"
            await other.ok(r"STORE 1 +FLAGS (\Deleted)")
            assert await idler.until(b"))\r\n") == b"* 1 FETCH (UID 1 FLAGS (\\Deleted))\r\n"
            await other.ok("EXPUNGE")
            assert await idler.until(b"EXPUNGE\r\n") == b"* 1 EXPUNGE\r\n"
            assert await idler.say("done") == b"i OK Idle completed\r\n"
            assert await idler.ok("NOOP") == []

    scene(play)


def test_idle_tells_first_what_was_not_yet_told() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            await here.deliver()
            assert await talk.say("i IDLE") == b"+ idling\r\n* 1 EXISTS\r\n* 0 RECENT\r\n"

    scene(play)


def test_done_may_come_with_idle_and_a_command_with_done() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            said = responses(await talk.send(b"i IDLE\r\nDONE\r\nb NOOP\r\n"))
            assert said == [b"+ idling", b"i OK Idle completed", b"b OK Completed"]
            assert await talk.drip(b"i IDLE\r\nDONE\r\nb NOOP\r\n") == b"".join(each + b"\r\n" for each in said)

    scene(play)


def test_idle_ends_at_anything_else_than_done() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert await talk.say("i IDLE") == b"+ idling\r\n"
            assert await talk.say("b NOOP") == b"i BAD Expected DONE\r\n"
            await talk.ok("NOOP")

    scene(play)


def test_a_client_that_leaves_in_idle_is_no_error() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            await talk.say("i IDLE")
            talk.wire.break_off()
        async with here.imap(select="INBOX") as talk:
            await talk.say("i IDLE")

    scene(play)


@pytest.mark.row("IMAP-16")
def test_idle_says_that_it_is_there_and_ends_after_half_an_hour() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            await talk.say("i IDLE")
            for _ in range(14):
                assert await talk.wait(120.0) == b"* OK Still here\r\n"
            assert await talk.wait(120.0) == b"* BYE Autologout; idle for too long\r\n"
            assert talk.wire.closed

    scene(play)


@pytest.mark.row("IMAP-16")
def test_a_client_that_begins_idle_anew_stays() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            for _ in range(3):
                assert await talk.say("i IDLE") == b"+ idling\r\n"
                for _ in range(14):
                    await talk.wait(120.0)
                assert await talk.say("DONE") == b"i OK Idle completed\r\n"

    scene(play)


def test_a_mailbox_deleted_during_idle_ends_the_session() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            await talk.ok("CREATE x")
            await talk.ok("SELECT x")
            await talk.say("i IDLE")
            box = await here.box("x")
            await here.mailboxes.append(box, MAIL, SEEN, here.clock.now(), here.clock.now())
            await talk.until(b"RECENT\r\n")
            await here.mailboxes.delete(here.accounts["bob"], "x")
            assert await talk.until(b"deleted\r\n") == b"* BYE The selected mailbox was deleted\r\n"
            async with asyncio.timeout(5):
                while not talk.wire.closed:
                    await asyncio.sleep(0)

    scene(play)
