"""Searching: each criterion, how they combine, and what is not read."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.base.clock import DAY, Instant
from gatepost.base.ids import MailId
from gatepost.store.flags import FLAGGED, SEEN
from gatepost.store.model import MailboxId
from gatepost.store.search import (
    AllOf,
    AnyOf,
    Arrived,
    ChangedAt,
    Criterion,
    HasFlags,
    InBody,
    InHeader,
    InText,
    InUids,
    Larger,
    Not,
    RowFacts,
    Sent,
    Smaller,
    TooDeep,
    check,
    day,
    decide,
    on_rows,
    search,
)
from gatepost.store.text import undo_encoding
from tests.store.world import ANN, NOW, World, world
from tests.support.databases import OpenDatabase, each_engine, open_sqlite
from tests.support.loop import run

PLAIN = (
    b"From: Ann <ann@a.example>\r\nSubject: Peas and beans\r\nX-Empty:\r\n"
    b"Date: Mon, 23 Nov 2026 23:30:00 -0800\r\n\r\nThe Garden.\r\n"
)
ENCODED = (
    b"From: =?iso-8859-1?q?J=F6rg?= <joe@a.example>\r\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\r\n"
    b"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"Im G=E4rt=\r\nchen.\r\n"
)
MIXED = (
    b"Subject: two parts\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    b"--x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\nX-Part: Turnip\r\n\r\n"
    + base64.b64encode("Die Rüben sind da.".encode())
    + b"\r\n--x\r\nContent-Type: application/octet-stream\r\n\r\ncarrot\r\n--x--\r\n"
)


async def filled(here: World) -> MailboxId:
    """Return an INBOX with the three messages: UIDs 1, 2 and 3, the second one seen, the third flagged."""
    inbox = await here.mailboxes.inbox(ANN)
    for flags, raw in ((0, PLAIN), (SEEN, ENCODED), (FLAGGED, MIXED)):
        await here.add(inbox, flags, raw)
    return inbox


@each_engine
def test_each_criterion_finds_what_it_should(open_db: OpenDatabase) -> None:
    async def play() -> None:
        async with world(open_db) as here:
            inbox = await filled(here)
            last = (await here.mailboxes.rows(inbox))[-1][2]
            since, before = day(Instant(NOW))
            cases: list[tuple[Criterion, list[int]]] = [
                (HasFlags(0), [1, 2, 3]),
                (HasFlags(SEEN), [2]),
                (Not(HasFlags(SEEN)), [1, 3]),
                (InUids(((1, 1), (3, 9))), [1, 3]),
                (ChangedAt(last), [3]),
                (Larger(len(PLAIN)), [2, 3]),
                (Smaller(len(PLAIN) + 1), [1]),
                (Arrived(since, before), [1, 2, 3]),
                (Arrived(before, Instant(before + DAY)), []),
                (Sent(since, before), [1, 3]),  # 23 November as written, though it is the 24th in UTC
                (InHeader(b"subject", "BEANS"), [1]),
                (InHeader(b"subject", "grüsse"), [2]),
                (InHeader(b"subject", "Grüße"), [2]),
                (InHeader(b"from", "jörg"), [2]),
                (InHeader(b"x-empty", ""), [1]),
                (InHeader(b"x-none", ""), []),
                (InBody("garden"), [1]),
                (InBody("GÄRTCHEN"), [2]),
                (InBody("rüben"), [3]),
                (InBody("carrot"), []),
                (InBody("subject"), []),
                (InText("ann@A"), [1]),
                (InText("turnip"), [3]),
                (InText("garden"), [1]),
                (AllOf(()), [1, 2, 3]),
                (AnyOf(()), []),
                (AllOf((HasFlags(FLAGGED), InBody("rüben"))), [3]),
                (AnyOf((HasFlags(SEEN), InBody("garden"), Larger(1 << 30))), [1, 2]),
                (Not(AnyOf((InBody("garden"), InHeader(b"subject", "two")))), [2]),
            ]
            for criterion, expected in cases:
                assert await search(here.mailboxes, inbox, criterion) == expected, criterion

    run(play())


def test_messages_that_flags_decide_are_not_read() -> None:
    async def play() -> None:
        async with world(open_sqlite) as here:
            inbox = await filled(here)
            read: list[int] = []
            content = here.mailboxes.content

            async def counted(body: MailId) -> bytes:
                read.append(body)
                return await content(body)

            here.mailboxes.content = counted  # type: ignore[method-assign]  # counts what is read
            assert await search(here.mailboxes, inbox, AllOf((HasFlags(SEEN), InBody("gärtchen")))) == [2]
            assert len(read) == 1
            assert await search(here.mailboxes, inbox, AnyOf((HasFlags(0), InText("x")))) == [1, 2, 3]
            assert await search(here.mailboxes, inbox, InHeader(b"subject", "turnips")) == []
            assert len(read) == 1  # the kept fields tell, of the encoded one too

    run(play())


@pytest.mark.row("IMAP-06")
def test_searches_that_are_too_deep_or_too_long_are_refused() -> None:
    deep: Criterion = HasFlags(1)
    for _ in range(63):
        deep = Not(deep)
    check(deep)
    with pytest.raises(TooDeep):
        check(Not(deep))
    check(AllOf((HasFlags(1),) * 999))
    with pytest.raises(TooDeep):
        check(AllOf((HasFlags(1),) * 1000))
    for _ in range(100_000):
        deep = AnyOf((deep, HasFlags(2)))
    with pytest.raises(TooDeep):
        check(deep)


LEAVES = st.sampled_from(
    [HasFlags(1), HasFlags(5), InUids(((1, 2), (4, 6))), InUids(()), ChangedAt(12), InBody("x"), Larger(3)]
)
CRITERIA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, max_size=3).map(lambda each: AllOf(tuple(each))),
        st.lists(inner, max_size=3).map(lambda each: AnyOf(tuple(each))),
    ),
    max_leaves=6,
)


@given(CRITERIA, st.integers(1, 7), st.integers(0, 7), st.integers(10, 14))
@settings(max_examples=200, deadline=None)
def test_the_quick_judgement_of_rows_is_the_slow_one(
    criterion: Criterion, uid: int, flags: int, modseq: int
) -> None:
    row = (uid, flags, modseq)
    assert on_rows(criterion)(row) is decide(criterion, RowFacts(row))


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None)
def test_encodings_are_undone_and_broken_ones_do_no_harm(octets: bytes) -> None:
    assert undo_encoding(base64.encodebytes(octets), b"base64") == octets
    assert undo_encoding(base64.b64encode(octets).rstrip(b"="), b"base64") == octets
    assert undo_encoding(octets, b"8bit") == octets
    assert isinstance(undo_encoding(octets, b"base64"), bytes)
    assert isinstance(undo_encoding(octets, b"quoted-printable"), bytes)
