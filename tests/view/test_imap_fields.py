"""Kept header fields: whatever is answered from them is octet for octet what the message itself answers."""

import random
from unittest.mock import patch

from gatepost.codec.imap.attributes import Cut, Section
from gatepost.codec.mail.header import HeaderBlock
from gatepost.store.fields import KEPT, KEPT_OCTETS_MAX, chosen, keep
from gatepost.store.text import Message, fold_text, kept_has
from gatepost.view.imap.fetch import chosen_fields
from tests.view.world import World, scene

MAIL = (
    b"From: a@b.example\r\nSUBJECT: one\r\n two\r\nCc: x@b.example\r\nDate: \xff\r\n"
    b"cc: y@b.example\r\n\r\nCc: no\r\n"
)
ASKED = (
    "BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)]",
    "BODY.PEEK[HEADER.FIELDS (CC REFERENCES)]",
    "BODY.PEEK[HEADER.FIELDS (SUBJECT)]<3.8>",
    "BODY.PEEK[HEADER.FIELDS (LINES)]",
    "BODY.PEEK[HEADER.FIELDS (X-OTHER CC)]",
    "BODY.PEEK[HEADER.FIELDS.NOT (CC)]",
    "(BODY.PEEK[HEADER.FIELDS (CC)] BODY.PEEK[TEXT] ENVELOPE BODYSTRUCTURE)",
)

PIECES = (
    b"From: a@b.example\r\n", b"FROM:x\r\n", b"Subject: one\r\n two\r\n\tthree\r\n", b"Subject:\r\n",
    b"subject: =?utf-8?q?g=C3=A4rten?=\r\n",
    b"To : odd@b.example\r\n", b"To:\r\n c@d.example\r\n", b"Date: \xff\xfe\r\n",
    b"X-Other: kept not\r\n subject: no field\r\n",
    b"Received: by x\r\n", b"Message-ID: <1@x>\r\n", b"Cc: a\rb\r\n",
    b"no field\r\n", b" leading\r\n", b"References: <1@x>\n", b"Cc: \0\r\n",
    b"References: <1@x>\r\n \r\n", b": x\r\n",
    b"Reply-To: :a:\r\n", b"From", b"Sender: z", b"\r\n",
)  # fmt: skip
NAMES = (b"from", b"subject", b"to", b"date", b"message-id", b"cc", b"references", b"reply-to", b"sender", b"lines")


def messages(count: int) -> list[bytes]:
    """Return messages whose headers are drawn from good and bad fields."""
    draw = random.Random(5)
    return [
        b"".join(draw.choices(PIECES, k=draw.randrange(6))) + draw.choice((b"\r\nSubject: body\r\n", b"", b"\n"))
        for _ in range(count)
    ]


def test_what_is_answered_from_kept_fields_is_what_the_message_answers() -> None:
    draw = random.Random(6)
    answered = 0
    for raw in messages(20_000):
        header = HeaderBlock.parse(raw)
        kept = keep(header)
        if kept is None:
            continue
        answered += 1
        names = frozenset(draw.sample(NAMES, draw.randrange(1, 5)))
        section = Section(b"", (), Cut.FIELDS, names)
        assert chosen(kept, names) == chosen_fields(section, raw, 0, header.end), raw
    assert answered > 2_000


def test_a_search_of_kept_fields_finds_what_a_search_of_the_message_finds() -> None:
    for raw in messages(3_000):
        kept = keep(HeaderBlock.parse(raw))
        if kept is None:
            continue
        for name in NAMES:
            for text in ("", "one two", "Gärten", "a@b", "subject"):
                needle = fold_text(text)
                assert kept_has(kept, name, needle) == Message(raw, b"").header_has(name, needle), (raw, name, text)


def test_fields_that_nobody_asks_for_in_lists_are_not_kept() -> None:
    assert keep(HeaderBlock.parse(b"Received: by x\r\nFrom: a\r\n\r\n")) == b"From: a\r\n"
    assert keep(HeaderBlock.parse(b"Received: by x\r\n\r\n")) == b""
    assert all(name == name.lower() for name in KEPT)


def test_long_or_doubtful_headers_are_left_to_the_message() -> None:
    assert keep(HeaderBlock.parse(b"To: " + b"a" * KEPT_OCTETS_MAX + b"\r\n\r\n")) is None
    assert keep(HeaderBlock.parse(b"To : a\r\n\r\n")) is None
    assert keep(HeaderBlock.parse(b"To: a\n\n")) is None
    assert keep(HeaderBlock.parse(b"To: a")) is None


def test_messages_without_kept_fields_are_answered_alike() -> None:
    async def play(here: World) -> None:
        await here.deliver(MAIL)
        with patch("gatepost.store.describe.keep", return_value=None):
            await here.deliver(MAIL)
        async with here.imap(select="INBOX") as bob:
            for each in ASKED:
                kept, read = await bob.ok(f"FETCH 1:2 {each}")
                assert read == kept.replace(b"* 1 ", b"* 2 ", 1)
            fields = b"".join(await bob.ok(f"FETCH 1:2 {ASKED[0]}"))
            assert fields.count(b"SUBJECT: one\r\n two\r\nDate: \xff\r\n\r\n") == 2
            fields = b"".join(await bob.ok(f"FETCH 1:2 {ASKED[1]}"))
            assert fields.count(b"Cc: x@b.example\r\ncc: y@b.example\r\n\r\n") == 2
            assert await bob.ok('SEARCH SUBJECT "ONE TWO" CC y@ NOT CC z') == [b"* SEARCH 1 2"]

    scene(play)
