"""CONDSTORE (RFC 7162): who is told a MODSEQ and when, conditional STOREs in a race, and changes since."""

import asyncio
import random
import re

import pytest

from tests.view.world import MAIL, World, scene

ENABLING = (
    "ENABLE CONDSTORE",
    "SELECT INBOX (CONDSTORE)",
    "STATUS Sent (HIGHESTMODSEQ)",
    "FETCH 1 MODSEQ",
    "FETCH 1 FLAGS (CHANGEDSINCE 1)",
    r"STORE 2 (UNCHANGEDSINCE 1) +FLAGS (\Draft)",
    "SEARCH MODSEQ 1",
)


@pytest.mark.parametrize("command", ENABLING)
def test_each_enabling_command_makes_news_tell_modseq(command: str) -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL)
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            await two.ok(r"STORE 1 +FLAGS.SILENT (\Seen)")
            assert await one.ok("NOOP") == [rb"* 1 FETCH (UID 1 FLAGS (\Seen))"]
            await one.ok(command)
            await two.ok(r"STORE 1 FLAGS.SILENT (\Flagged)")
            (said,) = await one.ok("NOOP")
            assert re.fullmatch(rb"\* 1 FETCH \(UID 1 FLAGS \(\\Flagged\) MODSEQ \([0-9]+\)\)", said)
            (said,) = await one.ok(r"STORE 1 +FLAGS (\Seen)")
            assert re.fullmatch(rb"\* 1 FETCH \(FLAGS \(\\Seen \\Flagged\) MODSEQ \([0-9]+\)\)", said)

    scene(play)


def test_without_one_nobody_hears_of_modseq() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL)
        async with here.imap(select="INBOX") as talk:
            said = await talk.ok(r"STORE 1 +FLAGS (\Seen)") + await talk.ok("SEARCH RETURN (ALL) ALL")
            assert not any(b"MODSEQ" in each for each in said)
            assert await talk.ok(r"STORE 1 -FLAGS.SILENT (\Seen)") == []

    scene(play)


@pytest.mark.row("IMAP-20")
def test_of_two_conditional_stores_at_once_one_is_told_modified() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL)
        box = await here.box()
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            for turn in range(10):
                seen = (await here.mailboxes.get(box)).modseq
                sign = "-" if turn % 2 else "+"
                done = await asyncio.gather(
                    one.do(rf"STORE 1 (UNCHANGEDSINCE {seen}) {sign}FLAGS.SILENT (\Flagged)"),
                    two.do(rf"UID STORE 1 (UNCHANGEDSINCE {seen}) {sign}FLAGS.SILENT (\Answered)"),
                )
                answers = sorted(each[-1] for each in done)
                assert answers == [b"OK Store completed", b"OK [MODIFIED 1] Conditional STORE failed"]
                assert (await here.mailboxes.get(box)).modseq > seen
                (flags,) = (await here.flags()).values()
                expected = {2, 4} if sign == "+" else {0, 2, 4, 6}
                assert flags in expected
                await one.ok("STORE 1 FLAGS.SILENT ()") if sign == "-" else None
                await one.ok("NOOP")
                await two.ok("NOOP")
                if sign == "+":
                    await one.ok(r"STORE 1 FLAGS.SILENT (\Flagged \Answered)")

    scene(play)


def test_a_new_message_and_an_old_one_have_changed_since() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL, MAIL)
        async with here.imap(select="INBOX") as talk:
            (said,) = await talk.ok("STATUS INBOX (HIGHESTMODSEQ)")
            highest = int(re.findall(rb"[0-9]+", said)[0])
            await talk.ok(r"STORE 2 +FLAGS.SILENT (\Seen)")
            await here.deliver()
            await talk.ok("NOOP")
            said_since = await talk.ok(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {highest})")
            assert [each.split()[1] for each in said_since] == [b"2", b"4"]
            assert await talk.ok(f"SEARCH MODSEQ {highest + 1}") == [b"* SEARCH 2 4 (MODSEQ %d)" % (highest + 2)]
            assert await talk.ok("UID SEARCH RETURN (MIN COUNT) NOT MODSEQ 1") == [
                b'* ESEARCH (TAG "a") UID COUNT 0'
            ]

    scene(play)


def test_a_client_that_fetches_what_changed_ends_with_the_same_flags() -> None:
    """What mbsync-like clients do: remember HIGHESTMODSEQ, come back, ask for the changes alone."""

    async def play(here: World) -> None:
        chance = random.Random(3)
        await here.deliver(*[MAIL] * 20)
        cached: dict[int, bytes] = {}
        highest = 0
        for _ in range(12):
            async with here.imap(select="INBOX") as other:
                for _ in range(chance.randint(0, 4)):
                    first, last = sorted(chance.choices(range(1, 21), k=2))
                    flag = chance.choice([r"\Seen", r"\Flagged", "$Junk", "new"])
                    sign = chance.choice(["+", "-", ""])
                    await other.ok(f"STORE {first}:{last} {sign}FLAGS.SILENT ({flag})")
            async with here.imap() as talk:
                said = await talk.ok("SELECT INBOX (CONDSTORE)")
                (line,) = [each for each in said if b"HIGHESTMODSEQ" in each]
                for each in await talk.ok(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {highest})"):
                    found = re.fullmatch(rb"\* \d+ FETCH \(UID (\d+) FLAGS \((.*)\) MODSEQ \((\d+)\)\)", each)
                    assert found is not None
                    assert int(found[3]) > highest
                    cached[int(found[1])] = found[2]
                highest = int(re.findall(rb"HIGHESTMODSEQ (\d+)", line)[0])
                now = {}
                for each in await talk.ok("UID FETCH 1:* FLAGS"):
                    found = re.fullmatch(rb"\* \d+ FETCH \(UID (\d+) FLAGS \((.*)\)\)", each)
                    assert found is not None
                    now[int(found[1])] = found[2]
                assert cached == now

    scene(play)


@pytest.mark.parametrize(
    "wrong",
    [
        "FETCH 1 FLAGS (CHANGEDSINCE)",
        "FETCH 1 FLAGS (CHANGEDSINCE -1)",
        "FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)",
        "FETCH 1 FLAGS CHANGEDSINCE 1",
        "STORE 1 (CHANGEDSINCE 1) FLAGS ()",
        "STORE 1 (UNCHANGEDSINCE 1)",
        "STORE 1 (UNCHANGEDSINCE 1)+FLAGS ()",
        "STORE 1 () FLAGS ()",
        "SEARCH MODSEQ",
        "SEARCH MODSEQ x",
        'SEARCH MODSEQ "/flags/x" some 1',
        "SEARCH RETURN ALL",
        "SEARCH RETURN (ALL)",
        "SEARCH RETURN (ALL MOST) ALL",
        "SELECT INBOX ()",
        "SELECT INBOX CONDSTORE",
        "SELECT INBOX (CONDSTORE) x",
    ],
)
def test_what_is_no_grammar_of_it_is_bad(wrong: str) -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL)
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no(wrong)).startswith(b"BAD ")
            assert not await talk.ok("NOOP")

    scene(play)
