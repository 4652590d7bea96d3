"""SEARCH: every key of RFC 3501, and searches that attack."""

import pytest

from gatepost.store.flags import ANSWERED, DELETED, DRAFT, FLAGGED, SEEN
from tests.view.world import World, scene

ONE = (
    b"From: Ann <ann@sender.example>\r\nTo: bob@here.example\r\nCc: carol@x.example\r\nBcc: dora@x.example\r\n"
    b"Subject: peas\r\nDate: Sun, 1 Nov 2026 23:30:00 -0500\r\nX-Mark: high noon\r\n\r\nThe peas are in.\r\n"
)
TWO = (
    b"From: =?utf-8?q?J=C3=BCrgen?= <j@sender.example>\r\nTo: list@x.example\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nDate: Mon, 23 Nov 2026 10:00:00 +0100\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    b"S8O2bG4gaXN0IHNjaMO2bg==\r\n" + b"\r\n" * 300
)
THREE = b"From: ann@sender.example\r\n\r\nno subject\r\n"
MONTH = 30 * 86400.0

FOUND: list[tuple[str, list[int]]] = [
    ("ALL", [1, 2, 3]),
    ("2:3", [2, 3]),
    ("*", [3]),
    ("UID 11:*", []),
    ("UID 2", [2]),
    ("ANSWERED", [2]),
    ("UNANSWERED", [1, 3]),
    ("DELETED", [2]),
    ("UNDELETED", [1, 3]),
    ("DRAFT", [3]),
    ("UNDRAFT", [1, 2]),
    ("FLAGGED", [1]),
    ("UNFLAGGED", [2, 3]),
    ("SEEN", [1]),
    ("UNSEEN", [2, 3]),
    ("NEW", []),
    ("OLD", [1, 2, 3]),
    ("RECENT", []),
    ("KEYWORD $Forwarded", []),
    ("UNKEYWORD Nothing", [1, 2, 3]),
    ("FROM ann", [1, 3]),
    ("from ANN@SENDER", [1, 3]),
    ("TO here.example", [1]),
    ("CC carol", [1]),
    ("BCC dora", [1]),
    ("SUBJECT pea", [1]),
    ('SUBJECT ""', [1, 2]),
    ("HEADER X-Mark noon", [1]),
    ('HEADER X-Mark ""', [1]),
    ("HEADER X-Mark night", []),
    ("BODY peas", [1]),
    ("BODY sender", []),
    ("TEXT sender", [1, 2, 3]),
    ("LARGER 500", [2]),
    ("SMALLER 100", [3]),
    ("BEFORE 24-Nov-2026", [1]),
    ("ON 23-Nov-2026", [1]),
    ('SINCE "23-Dec-2026"', [2, 3]),
    ("SENTBEFORE 2-Nov-2026", [1]),
    ("SENTON 1-Nov-2026", [1]),
    ("SENTON 23-nov-2026", [2]),
    ("SENTSINCE 23-Nov-2026", [2, 3]),
    ("SINCE 31-Dec-9999", []),
    ("BEFORE 1-Jan-0001", []),
    ("NOT SEEN", [2, 3]),
    ("OR SEEN DRAFT", [1, 3]),
    ("(UNSEEN DELETED)", [2]),
    ("UNSEEN NOT (OR DELETED DRAFT)", []),
    ("NOT (FROM ann BODY peas)", [2, 3]),
    ("CHARSET US-ASCII SEEN", [1]),
    ("charset utf-8 SEEN", [1]),
    ("Charset utf-8 SEEN", [1]),
]


async def fill(here: World) -> None:
    """Deliver one mail, and two a month later."""
    await here.deliver(ONE, flags=SEEN | FLAGGED)
    here.clock.move(MONTH)
    await here.deliver(TWO, flags=ANSWERED | DELETED)
    await here.deliver(THREE, flags=DRAFT)


def test_keys_of_search() -> None:
    async def play(here: World) -> None:
        await fill(here)
        async with here.imap(select="INBOX") as talk:
            for asked, expected in FOUND:
                said = await talk.do(f"SEARCH {asked}")
                numbers = [3] if asked == "UID 11:*" else expected  # `*` is 3, whatever stands before it
                assert (asked, said) == (
                    asked,
                    [b"* SEARCH" + b"".join(b" %d" % each for each in numbers), b"OK Search completed"],
                )

    scene(play)


@pytest.mark.parametrize("charset", ["", "CHARSET UTF-8 "])
def test_text_beyond_ascii_is_found_decoded(charset: str) -> None:
    async def play(here: World) -> None:
        await fill(here)
        async with here.imap(select="INBOX") as talk:
            for key in ("FROM jürgen", "SUBJECT grüße", "BODY Köln", "TEXT SCHÖN"):
                name, _, text = key.partition(" ")
                octets = text.encode()
                asked = b"SEARCH %b%b {%d+}\r\n%b" % (charset.encode(), name.encode(), len(octets), octets)
                assert (key, await talk.ok(asked)) == (key, [b"* SEARCH 2"])
            assert (await talk.no("SEARCH CHARSET KOI8-R ALL")).startswith(b"NO [BADCHARSET (US-ASCII UTF-8)]")

    scene(play)


def test_a_charset_injects_no_response() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            answer = await talk.no(b"SEARCH CHARSET {15+}\r\nx\r\n* 9 EXPUNGE\r ALL")
            assert answer.startswith(b"NO [BADCHARSET (US-ASCII UTF-8)]")

    scene(play)


def test_uid_search_answers_uids() -> None:
    async def play(here: World) -> None:
        await fill(here)
        async with here.imap(select="INBOX") as talk:
            await talk.ok("UID EXPUNGE 2")
            assert await talk.ok("UID SEARCH ALL") == [b"* SEARCH 1 3"]
            assert await talk.ok("UID SEARCH 2") == [b"* SEARCH 3"]
            assert await talk.ok("SEARCH UID 3") == [b"* SEARCH 2"]
            assert await talk.ok("SEARCH 7:9") == [b"* SEARCH"]

    scene(play)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "XYZZY",
        "OR SEEN",
        "NOT",
        "(SEEN",
        "()",
        "SEEN)",
        "SINCE 31-Feb-2026",
        "SINCE 1-Nov-0000",
        "ON 1-Xyz-2026",
        "LARGER -1",
        "LARGER 99999999999999999999",
        "LARGER 1_0",
        "FROM",
        "HEADER X",
        "UID 0",
        "4294967296",
    ],
)
def test_what_is_no_search_is_bad(wrong: str) -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no(f"SEARCH {wrong}")).startswith(b"BAD")

    scene(play)


@pytest.mark.row("IMAP-06")
@pytest.mark.parametrize(
    "deep",
    ["OR " * 20_000 + "SEEN", "(" * 60_000, "NOT " * 15_000 + "SEEN", "(" * 65 + "SEEN" + ")" * 65, "SEEN " * 3000],
)
def test_a_search_that_is_too_deep_is_bad(deep: str) -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no(f"SEARCH {deep.strip()}")).startswith(b"BAD")
            assert await talk.ok("SEARCH ALL") == [b"* SEARCH 1"]

    scene(play)


def test_a_search_of_some_depth_is_answered() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok(f"SEARCH {'NOT ' * 30}SEEN") == [b"* SEARCH"]
            assert await talk.ok(f"SEARCH {'(' * 60}UNSEEN{')' * 60}") == [b"* SEARCH 1"]
            assert await talk.ok(f"SEARCH {'OR SEEN ' * 50}UNSEEN") == [b"* SEARCH 1"]

    scene(play)
