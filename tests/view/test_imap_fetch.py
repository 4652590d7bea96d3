r"""FETCH: what it shows of a message, what sets \Seen, and sets of every kind."""

import pytest

from gatepost.base.clock import Instant
from gatepost.store.flags import SEEN
from tests.view.world import MAIL, World, responses, scene

HEADER, _, TEXT = MAIL.partition(b"\r\n\r\n")
HEADER += b"\r\n\r\n"
PARTS = (
    b"From: ann@sender.example\r\nSubject: parts\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="b"\r\n\r\npreamble\r\n'
    b"--b\r\nContent-Type: text/plain\r\nX-One: 1\r\n\r\nfirst\r\n"
    b"--b\r\nContent-Type: message/rfc822\r\n\r\n"
    b"From: inner@x.example\r\nSubject: inside\r\nContent-Type: text/html\r\n\r\n<p>deep</p>\r\n"
    b"--b--\r\nepilogue\r\n"
)


def literal(label: bytes, value: bytes) -> bytes:
    """Return how an answer shows octets."""
    return b"%b {%d}\r\n%b" % (label, len(value), value)


def test_facts_of_a_message() -> None:
    async def play(here: World) -> None:
        await here.deliver(flags=SEEN)
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok("FETCH 1 (UID FLAGS RFC822.SIZE INTERNALDATE)") == [
                rb'* 1 FETCH (UID 1 FLAGS (\Seen) RFC822.SIZE %d INTERNALDATE "23-Nov-2026 08:00:00 +0000")'
                % len(MAIL)
            ]
            ann = b'(("Ann" NIL "ann" "sender.example"))'
            people = b'%b %b %b ((NIL NIL "bob" "here.example"))' % (ann, ann, ann)
            shown = b'"Mon, 23 Nov 2026 10:00:00 +0100" "peas" ' + people
            assert await talk.ok("FETCH 1 ENVELOPE") == [
                b'* 1 FETCH (ENVELOPE (%b NIL NIL NIL "<one@sender.example>"))' % shown
            ]
            lines = MAIL.count(b"\r\n") - HEADER.count(b"\r\n")
            shape = b'"TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" %d %d' % (len(TEXT), lines)
            (said,) = await talk.ok("FETCH 1 BODY")
            assert said.upper() == b"* 1 FETCH (BODY (%b))" % shape
            (said,) = await talk.ok("FETCH 1 BODYSTRUCTURE")
            assert said.upper() == b"* 1 FETCH (BODYSTRUCTURE (%b NIL NIL NIL NIL))" % shape

    scene(play)


def test_macros_are_their_facts() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            fast = "FLAGS INTERNALDATE RFC822.SIZE"
            for macro, meant in (("fast", fast), ("ALL", f"{fast} ENVELOPE"), ("FULL", f"{fast} ENVELOPE BODY")):
                assert await talk.ok(f"FETCH 1 {macro}") == await talk.ok(f"FETCH 1 ({meant})")

    scene(play)


SECTIONS = [
    (b"BODY.PEEK[]", b"BODY[]", MAIL),
    (b"BODY.PEEK[HEADER]", b"BODY[HEADER]", HEADER),
    (b"RFC822.HEADER", b"RFC822.HEADER", HEADER),
    (b"body.peek[text]", b"BODY[TEXT]", TEXT),
    (b"BODY.PEEK[1]", b"BODY[1]", TEXT),
    (b"BODY.PEEK[1.MIME]", b"BODY[1.MIME]", HEADER),
    (b"BODY.PEEK[]<0.10>", b"BODY[]<0>", MAIL[:10]),
    (b"BODY.PEEK[]<7.100000>", b"BODY[]<7>", MAIL[7:]),
    (b"BODY.PEEK[TEXT]<99999.1>", b"BODY[TEXT]<99999>", b""),
    (
        b"BODY.PEEK[HEADER.FIELDS (Subject FROM X)]",
        b"BODY[HEADER.FIELDS (Subject FROM X)]",
        b"From: Ann <ann@sender.example>\r\nSubject: peas\r\n\r\n",
    ),
    (b'BODY.PEEK[header.fields ("to")]', b"BODY[HEADER.FIELDS (to)]", b"To: bob@here.example\r\n\r\n"),
    (b"BODY.PEEK[HEADER.FIELDS (X)]", b"BODY[HEADER.FIELDS (X)]", b"\r\n"),
    (
        b"BODY.PEEK[HEADER.FIELDS.NOT (from to date message-id)]",
        b"BODY[HEADER.FIELDS.NOT (from to date message-id)]",
        b"Subject: peas\r\n\r\n",
    ),
]


@pytest.mark.parametrize(("asked", "label", "value"), SECTIONS)
def test_sections_of_a_plain_message(asked: bytes, label: bytes, value: bytes) -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok(b"FETCH 1 " + asked) == [b"* 1 FETCH (%b)" % literal(label, value)]
            assert await here.flags() == {1: 0}

    scene(play)


INNER = b"From: inner@x.example\r\nSubject: inside\r\nContent-Type: text/html\r\n\r\n"
PIECES: list[tuple[bytes, bytes | None]] = [
    (b"1", b"first"),
    (b"1.MIME", b"Content-Type: text/plain\r\nX-One: 1\r\n\r\n"),
    (b"2", INNER + b"<p>deep</p>"),
    (b"2.MIME", b"Content-Type: message/rfc822\r\n\r\n"),
    (b"2.HEADER", INNER),
    (b"2.TEXT", b"<p>deep</p>"),
    (b"2.1", b"<p>deep</p>"),
    (b"2.1.MIME", INNER),
    (b"2.HEADER.FIELDS (SUBJECT)", b"Subject: inside\r\n\r\n"),
    (b"3", None),
    (b"1.1", None),
    (b"1.TEXT", None),
    (b"2.2", None),
]


@pytest.mark.parametrize(("section", "value"), PIECES)
def test_sections_of_parts(section: bytes, value: bytes | None) -> None:
    async def play(here: World) -> None:
        await here.deliver(PARTS)
        async with here.imap(select="INBOX") as talk:
            label = b"BODY[%b]" % section
            shown = label + b" NIL" if value is None else literal(label, value)
            assert await talk.ok(b"FETCH 1 BODY.PEEK[%b]" % section) == [b"* 1 FETCH (%b)" % shown]

    scene(play)


@pytest.mark.parametrize(
    "wrong",
    [
        "BODY[0]",
        "BODY[1.]",
        "BODY[.1]",
        "BODY[MIME]",
        "BODY[1.X]",
        "BODY[]<0.0>",
        "BODY[]<-1.5>",
        "BODY[]<0>",
        "BODY[HEADER.FIELDS]",
        "BODY[HEADER.FIELDS ()]",
        "BODY.PEEK",
        "XYZZY",
        "()",
        "(UID ALL)",
        "(UID",
        "BODY[" + "1." * 60 + "1]",
        "(" + "FLAGS " * 200 + "UID)",
    ],
)
def test_what_is_no_section_is_bad(wrong: str) -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no(f"FETCH 1 {wrong}")).startswith(b"BAD")

    scene(play)


@pytest.mark.parametrize("asked", ["BODY[]", "BODY[TEXT]", "BODY[1]", "RFC822", "RFC822.TEXT"])
def test_a_body_without_peek_sets_seen(asked: str) -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL)
        async with here.imap(select="INBOX") as talk:
            (said,) = await talk.ok(f"UID FETCH 2 ({asked})")
            assert said.startswith(b"* 2 FETCH (UID 2 ")
            assert said.endswith(rb" FLAGS (\Seen))")
            assert await here.flags() == {1: 0, 2: SEEN}
            (said,) = await talk.ok(f"FETCH 2 ({asked} FLAGS)")
            assert said.count(b"FLAGS") == 1
            assert await talk.ok("NOOP") == []

    scene(play)


def test_flags_asked_with_a_body_show_what_it_did() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok("FETCH 1 (FLAGS BODY[]<0.4>)") == [
                rb"* 1 FETCH (FLAGS (\Seen) %b)" % literal(b"BODY[]<0>", b"From")
            ]

    scene(play)


def test_a_mailbox_that_is_only_examined_changes_nothing() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap() as talk:
            await talk.ok("EXAMINE INBOX")
            assert await talk.ok("FETCH 1 BODY[]") == [b"* 1 FETCH (%b)" % literal(b"BODY[]", MAIL)]
            assert await here.flags() == {1: 0}

    scene(play)


SETS = [
    ("1:*", [1, 2, 3]),
    ("1:4294967295", [1, 2, 3]),
    ("*", [3]),
    ("*:2", [2, 3]),
    ("3:1", [1, 2, 3]),
    ("3,1,3,1:1", [1, 3]),
    ("2:3,*", [2, 3]),
    ("1:3,2:*", [1, 2, 3]),
]


@pytest.mark.row("IMAP-07")
@pytest.mark.parametrize(("asked", "found"), SETS)
def test_a_set_names_each_message_once(asked: str, found: list[int]) -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL, MAIL)
        async with here.imap(select="INBOX") as talk:
            for what in ("FLAGS", "RFC822.SIZE", "BODY.PEEK[TEXT]"):
                for uid in ("", "UID "):
                    said = await talk.do(f"{uid}FETCH {asked} ({what})")
                    assert [int(each.split(b" ")[1]) for each in said[:-1]] == found
                    assert said[-1] == b"OK Fetch completed"

    scene(play)


@pytest.mark.row("IMAP-07")
def test_a_range_up_to_the_last_names_the_last_whatever_it_begins_with() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL, MAIL)
        async with here.imap(select="INBOX") as talk:
            assert await talk.ok("UID FETCH 3:5,100:* (RFC822.SIZE)") == [
                b"* 3 FETCH (UID 3 RFC822.SIZE %d)" % len(MAIL)
            ]
            assert await talk.do("UID FETCH 4:100 (FLAGS)") == [b"OK Fetch completed"]
            assert await talk.ok("UID FETCH 50:* (FLAGS)") == [b"* 3 FETCH (UID 3 FLAGS ())"]

    scene(play)


@pytest.mark.row("IMAP-07")
@pytest.mark.parametrize(
    "wrong", ["4294967296", "0", "0:3", "4", "4:5", "-1", "1:", ":1", "1,,2", "1:2:3", "", "a"]
)
def test_what_is_no_set_is_bad(wrong: str) -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL, MAIL)
        async with here.imap(select="INBOX") as talk:
            for command in ("FETCH {} FLAGS", r"STORE {} FLAGS (\Seen)", "COPY {} Trash", "MOVE {} Trash"):
                assert (await talk.no(command.format(wrong))).startswith(b"BAD")
            assert await here.flags() == {1: 0, 2: 0, 3: 0}

    scene(play)


@pytest.mark.row("IMAP-07")
def test_a_set_of_ten_thousand_ranges_is_one() -> None:
    async def play(here: World) -> None:
        await here.deliver()
        async with here.imap(select="INBOX") as talk:
            asked = ",".join(["1:*"] * 10_000)
            assert await talk.ok(f"FETCH {asked} FLAGS") == [b"* 1 FETCH (FLAGS ())"]
            assert (await talk.no(f"UID FETCH {'1,' * 20_000}1 FLAGS")).startswith(b"BAD")

    scene(play)


def test_a_set_of_an_empty_mailbox_is_bad_but_for_uids() -> None:
    async def play(here: World) -> None:
        async with here.imap(select="INBOX") as talk:
            assert (await talk.no("FETCH 1:* FLAGS")).startswith(b"BAD")
            for command in ("FETCH 1:* FLAGS", r"STORE 1:* FLAGS (\Seen)", "COPY 1 Sent", "EXPUNGE 1:*"):
                assert (await talk.no(f"UID {command}")).startswith(b"OK")
            assert await talk.do("SEARCH ALL") == [b"* SEARCH", b"OK Search completed"]

    scene(play)


@pytest.mark.row("IMAP-23")
def test_a_subject_injects_no_response() -> None:
    async def play(here: World) -> None:
        evil = b'Subject: a" NIL)\\\r\n\t* 9 EXPUNGE {3}\r\nFrom: "x\\"y" <a"b@c>\r\n'
        evil += b'Content-Type: text/plain; name="q\\"\r\n uo{4}te"\r\nContent-ID: <\xff\x01>\r\n\r\n'
        await here.deliver(evil)
        async with here.imap(select="INBOX") as talk:
            said = responses(await talk.send(b"a FETCH 1 (ENVELOPE BODYSTRUCTURE)\r\n"))
            assert len(said) == 2
            assert said[0].startswith(b"* 1 FETCH (ENVELOPE (")
            assert said[0].endswith(b"))")
            assert said[1] == b"a OK Fetch completed"

    scene(play)


def test_the_internal_date_is_that_of_the_store() -> None:
    async def play(here: World) -> None:
        now = Instant(1_772_611_445_000_000)
        await here.mailboxes.append(await here.box(), MAIL, 0, now, now)
        async with here.imap(select="INBOX") as talk:
            (said,) = await talk.ok("FETCH 1 INTERNALDATE")
            assert said == b'* 1 FETCH (INTERNALDATE " 4-Mar-2026 08:04:05 +0000")'

    scene(play)


def test_a_message_expunged_while_it_is_fetched_is_left_out() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL, MAIL.replace(b"peas", b"corn"))
        async with here.imap(select="INBOX") as talk:
            real, box = here.mailboxes.content, await here.box()

            async def content(body: object) -> bytes:
                here.mailboxes.content = real  # type: ignore[method-assign]  # the race happens once
                await here.mailboxes.expunge(box, ((1, 1),), whatever_flags=True)
                return await real(body)  # type: ignore[arg-type]  # a MailId

            here.mailboxes.content = content  # type: ignore[method-assign]  # another session is quicker
            said = await talk.do("FETCH 1:2 (BODY.PEEK[]<0.4>)")
            assert said == [
                b"* 2 FETCH (%b)" % literal(b"BODY[]<0>", b"From"),
                b"OK [EXPUNGEISSUED] Some messages were expunged meanwhile",
            ]
            assert here.log.events("body_damaged") == []
            assert await talk.ok("NOOP") == [b"* 1 EXPUNGE"]

    scene(play)
