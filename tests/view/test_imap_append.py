"""The message of an APPEND on its way in: never whole in memory, bounded over all sessions, checked as it comes."""

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.accounts.model import Quota
from gatepost.blobs.spool import Spool, SpoolBudget
from gatepost.view.imap.upload import Upload
from tests.view.world import DISK, MAIL, MEMORY, Imap, World, responses, scene

LINE = b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 4 + b"\r\n"
LARGE = LINE + bytes(random.Random(5).choices(b"abcdefghijklmnopqrstuvwxyz\n", k=3 << 20)).replace(b"\n", b"\r\n")


async def announce(talk: Imap, size: int, plus: bytes = b"") -> bytes:
    """Begin an APPEND; return what is said to it."""
    return await talk.send(b"a APPEND INBOX {%d%b}\r\n" % (size, plus))


@pytest.mark.parametrize("plus", [b"", b"+"])
def test_a_large_message_is_held_on_the_disk_and_stored_as_it_came(plus: bytes) -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            assert await announce(talk, len(LARGE), plus) == (b"" if plus else b"+ OK\r\n")
            for at in range(0, len(LARGE), 100_000):
                assert await talk.send(LARGE[at : at + 100_000]) == b""
                assert talk.wire.waiting
            assert here.budget.disk == DISK - len(LARGE)
            assert here.budget.memory == MEMORY
            assert (await talk.send(b"\r\n")).startswith(b"a OK [APPENDUID ")
            assert here.budget.disk == DISK
        assert await here.mails() == {1: LARGE}

    scene(play)


@pytest.mark.row("IMAP-09")
def test_where_there_is_no_room_it_is_said_before_the_message_comes() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            here.budget.take(0, DISK - 1000)
            assert (await announce(talk, 2 << 20)).startswith(b"a NO [LIMIT] ")
            assert (await talk.append(MAIL)).startswith(b"OK [APPENDUID ")
            here.budget.take(MEMORY, 0)
            assert (await announce(talk, 100)).startswith(b"a NO [LIMIT] ")
            here.budget.give(MEMORY, DISK - 1000)
            assert (await talk.append(MAIL)).startswith(b"OK [APPENDUID ")

    scene(play)


@pytest.mark.row("IMAP-09")
def test_a_message_that_comes_though_there_is_no_room_is_dropped_and_refused() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            here.budget.take(0, DISK)
            assert await announce(talk, len(LARGE), b"+") == b""
            said = responses(await talk.send(LARGE + b"\r\nb NOOP\r\n"))
            assert said[0].startswith(b"a NO [LIMIT] ")
            assert said[1].startswith(b"b OK")
            assert here.budget.memory == MEMORY
            here.budget.give(0, DISK)
            assert (await talk.append(MAIL)).startswith(b"OK [APPENDUID ")

    scene(play)


def test_room_that_runs_out_on_the_way_refuses_that_message_alone() -> None:
    async def play(here: World) -> None:
        async with here.imap() as one, here.imap() as two:
            assert await announce(one, len(LARGE)) == b"+ OK\r\n"
            await one.send(LARGE[: 2 << 20])
            room = here.budget.disk
            here.budget.take(0, room)
            await one.send(LARGE[2 << 20 :])
            here.budget.give(0, room)
            assert here.budget.disk == DISK
            assert (await one.send(b"\r\n")).startswith(b"a NO [LIMIT] ")
            assert (await two.append(MAIL)).startswith(b"OK [APPENDUID ")
        assert list((await here.mails()).values()) == [MAIL]

    scene(play)


@pytest.mark.row("IMAP-09")
def test_a_message_over_quota_is_refused_before_it_comes() -> None:
    async def play(here: World) -> None:
        real = here.services.accounts.authenticate

        async def small(user: str, password: bytes) -> object:
            from dataclasses import replace

            account = await real(user, password)
            assert account is not None
            return replace(account, quota=Quota(octets=1000))

        here.services.accounts.authenticate = small  # type: ignore[method-assign,assignment]  # bob has 1000 octets
        async with here.imap() as talk:
            assert (await announce(talk, 1001)).startswith(b"a NO [OVERQUOTA] ")
            assert (await talk.append(MAIL)).startswith(b"OK [APPENDUID ")
            assert (await announce(talk, 900)).startswith(b"a NO [OVERQUOTA] ")
            assert (await talk.append(b"x" * 900)).startswith(b"NO [OVERQUOTA] ")

    scene(play)


def test_one_message_an_append() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            said = await talk.send(b"a APPEND INBOX {%d+}\r\n%b {2+}\r\nhi\r\n" % (len(MAIL), MAIL))
            assert said.startswith(b"a BAD ")
            assert (await talk.no(b'APPEND INBOX "quoted"')).startswith(b"BAD ")
            assert (await talk.no(b"APPEND INBOX")).startswith(b"BAD ")
        assert await here.mails() == {}

    scene(play)


def test_a_session_that_ends_within_a_message_gives_its_room_back() -> None:
    async def play(here: World) -> None:
        async with here.imap() as talk:
            await announce(talk, len(LARGE))
            await talk.send(LARGE[: 2 << 20])
            assert here.budget.disk < DISK
        assert here.budget.disk == DISK

    scene(play)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"ab", b"\n\n", b"\r\r", b"c\r"]), max_size=12),
    st.integers(1, 5),
)
def test_line_ends_become_crlf_however_the_message_is_cut(pieces: list[bytes], size: int) -> None:
    raw = b"".join(pieces)
    upload = Upload(Spool(Path("/nonexistent"), SpoolBudget(1 << 20, 0)))
    for at in range(0, len(raw), size):
        upload.write(raw[at : at + size])
    found = bytes(upload.content())
    upload.close()
    assert found == raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def test_a_map_that_a_thread_still_reads_goes_last(tmp_path: Path) -> None:
    budget = SpoolBudget(2 << 20, 8 << 20)
    spool = Spool(tmp_path, budget)
    spool.write(LARGE)
    reading = memoryview(spool.view())
    spool.close()
    assert budget.disk == 8 << 20
    assert bytes(reading[:10]) == LARGE[:10]
    reading.release()


def test_deliveries_to_one_mailbox_are_heard_through_one_listener() -> None:
    async def play(here: World) -> None:
        listeners = here.database._listeners._heard["mailbox"]  # type: ignore[attr-defined]  # how many there are
        before = len(listeners)
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two, here.imap(select="Sent"):
            assert len(listeners) == before + 1
            await here.deliver()
            for talk in (one, two):
                assert await talk.ok("NOOP") == [b"* 1 EXISTS", b"* 0 RECENT"]
        assert len(listeners) == before

    scene(play)


def test_news_that_may_have_been_missed_are_looked_for() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            here.database._listeners._heard["mailbox"], kept = [], here.database._listeners._heard["mailbox"]  # type: ignore[attr-defined]
            await here.deliver()
            assert await talk.ok("CAPABILITY") != [b"* 1 EXISTS"]
            here.database._listeners._heard["mailbox"] = kept  # type: ignore[attr-defined]  # the keeper is back
            here.database._listeners.tell_everything()  # type: ignore[attr-defined]
            assert b"* 1 EXISTS" in await talk.ok("STATUS Sent (MESSAGES)")

    scene(play)


def test_thousands_of_messages_are_stored_and_expunged_in_slices() -> None:
    async def play(here: World) -> None:
        for _ in range(10):
            box, now = await here.box(), here.clock.now()
            await asyncio.gather(*(here.mailboxes.append(box, MAIL, 0, now, now) for _ in range(250)))
        async with here.imap(select="INBOX") as one, here.imap(select="INBOX") as two:
            said = await one.ok(r"STORE 1:* +FLAGS (\Deleted)")
            assert said == [rb"* %d FETCH (FLAGS (\Deleted))" % number for number in range(1, 2501)]
            assert len(await two.ok("NOOP")) == 2500
            await one.ok(r"STORE 2,4,2500 -FLAGS.SILENT (\Deleted)")
            said = await one.ok("EXPUNGE")
            assert len(said) == 2497
            left = [b"* 1 FETCH (UID 2)", b"* 2 FETCH (UID 4)", b"* 3 FETCH (UID 2500)"]
            assert await one.ok("FETCH 1:* UID") == left
            view = list(range(1, 2501))
            for each in said:
                del view[int(each.split()[1]) - 1]
            assert view == [2, 4, 2500]
            assert len(await two.ok("NOOP")) == 2497 + 3
            assert await two.ok("FETCH 1:* UID") == left

    scene(play)
